// What the theme leaves out: areas that scroll can be reached by keyboard, and each has a name.
"use strict";
document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
// The theme makes these as code comes into view.
const name = () => document.querySelectorAll("nav.md-code__nav").forEach((nav, place) => {
  nav.setAttribute("aria-label", `Code ${place + 1}`);
});
name();
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
const reachable = () => {
  for (const area of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap, .hp-picture")) {
    if (area.scrollWidth > area.clientWidth) area.tabIndex = 0;
  }
};
reachable();
addEventListener("load", reachable);
addEventListener("resize", reachable);
