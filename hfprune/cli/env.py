"""``hfprune env``."""

from __future__ import annotations

from hfprune.cli.app import AsJson, app, example, explained, print_json, say

# Of the CPU's flags those that decide how fast these models are.
TELLING = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)


@app.command(epilog=example("hfprune env", "hfprune env --json"))
def env(as_json: AsJson = False) -> None:
    """Print versions and what of the CPU matters, for bug reports: no name, no path, no setting."""
    with explained("nothing was changed", as_json=as_json):
        from hfprune.core.machine import CPUINFO, memory_bytes, read_cpu
        from hfprune.measure.environment import environment

        found = environment()
        flags = read_cpu(CPUINFO)[1]
        found["cpu_flags"] = [flag for flag in TELLING if flag in flags]
        found["memory_gib"] = round(memory_bytes() / 2**30, 1)
        if as_json:
            print_json(found)
            return
        libraries = found.pop("libraries")
        for name, value in found.items():
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            say(f"{name.replace('_', ' ')}: {shown}")
        say("libraries: " + ", ".join(f"{k} {v}" for k, v in libraries.items() if v is not None))
