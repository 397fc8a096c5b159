"use strict";
// Sorting, copying and notes at marks. Nothing here is needed to read the page.
for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.append(head.firstChild);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[place];
        const data = cell.querySelector("data");
        const found = data ? Number(data.value) : parseFloat(cell.textContent);
        return Number.isNaN(found) ? cell.textContent.trim() : found;
      };
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const less = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return up ? less : -less;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
for (const box of document.querySelectorAll(".copy")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const text = box.querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  box.append(button);
}
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
for (const mark of document.querySelectorAll("figure svg .fill")) {
  const title = mark.querySelector("title");
  if (!title) continue;
  const text = title.textContent;
  mark.addEventListener("pointerenter", () => {
    title.remove();
    tip.textContent = text;
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    const left = Math.min(place.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, place.top - tip.offsetHeight - 6)}px`;
  });
  mark.addEventListener("pointerleave", () => {
    tip.hidden = true;
    mark.append(title);
  });
}
