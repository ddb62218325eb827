"use strict";

// Tables that sort by a click, or the space bar, on a column's head, and filter by what is typed.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const isNumber = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const upwards = before ? before === "descending" : !isNumber;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const sign = upwards ? 1 : -1;
      const compared = (one, other) => {
        const [a, b] = [valueOf(one, column), valueOf(other, column)];
        if (!isNumber) return sign * a.localeCompare(b);
        if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured stays last
        return sign * (Number(a) - Number(b));
      };
      body.append(...[...body.rows].sort(compared));
    });
  });
  const filter = document.getElementById(table.dataset.filter);
  const shown = document.getElementById(table.dataset.count);
  filter?.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${body.rows.length}`;
  });
}

// The gallery: a click enlarges a picture; the arrow keys go on, Escape closes.
const dialog = document.querySelector("dialog");
if (dialog) {
  const tiles = [...document.querySelectorAll(".tile")];
  const [picture, caption] = [dialog.querySelector("img"), dialog.querySelector("p")];
  let place = 0;
  const show = (next) => {
    place = (next + tiles.length) % tiles.length;
    const image = tiles[place].querySelector("img");
    picture.src = image.src;
    picture.alt = image.alt;
    caption.textContent = image.alt;
  };
  tiles.forEach((tile, index) =>
    tile.addEventListener("click", () => {
      show(index);
      dialog.showModal();
    }),
  );
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(place + step);
  });
  const [before, next, close] = dialog.querySelectorAll("nav button");
  before.addEventListener("click", () => show(place - 1));
  next.addEventListener("click", () => show(place + 1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => tiles[place].focus());
}
