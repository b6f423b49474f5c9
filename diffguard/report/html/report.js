"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Results: the choice of metrics, folded sets and scores, sorting.
  const view = document.getElementById("view");
  const showView = () =>
    all(".view").forEach((part, number) => (part.hidden = number !== Number(view.value)));
  if (view) {
    view.addEventListener("change", showView);
    showView(); // a browser may restore the choice of an earlier visit
  }
  for (const button of all("button.fold")) {
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(open));
      button.textContent = `${open ? "Hide" : "Show"} ${button.dataset.what}`;
      all(button.dataset.show).forEach((part) => (part.hidden = !open));
    });
  }
  const byName = (a, b) => a.localeCompare(b, undefined, { numeric: true });
  const numberOf = (row, column) => {
    const text = row.cells[column].dataset.value;
    return text === "" ? NaN : Number(text);
  };
  const sortTable = (button) => {
    const header = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const column = Number(button.dataset.column);
    const first = button.dataset.higher === "true" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    all("th[aria-sort]", button.closest("table")).forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (column === 0) return sign * byName(a.cells[0].textContent, b.cells[0].textContent);
      const [x, y] = [numberOf(a, column), numberOf(b, column)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    body.append(...[...body.rows].sort(compare));
  };
  for (const button of all(".sortable button")) {
    button.addEventListener("click", () => sortTable(button));
  }

  // Gallery: filters and order.
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.querySelector(".cards");
  const cards = all(".card");
  const places = new Map(cards.map((card, place) => [card, place]));
  const names = ["set", "verdict", "stage", "prediction", "outcome"].filter((name) => form.elements[name]);
  const orders = {
    mistakes: (a, b) => places.get(a) - places.get(b),
    most: (a, b) => b.dataset.score - a.dataset.score,
    least: (a, b) => a.dataset.score - b.dataset.score,
    name: (a, b) => byName(a.dataset.name, b.dataset.name),
  };
  const matches = (card) => {
    const { low, high } = form.elements;
    const score = Number(card.dataset.score);
    return (
      names.every((n) => !form.elements[n].value || form.elements[n].value === card.dataset[n]) &&
      (low.value === "" || score >= Number(low.value)) &&
      (high.value === "" || score <= Number(high.value))
    );
  };
  const filter = () => {
    cards.forEach((card) => (card.hidden = !matches(card)));
    const count = cards.filter((card) => !card.hidden).length;
    document.getElementById("shown").textContent = `${count} of ${cards.length} images`;
  };
  const sort = () => list.append(...cards.sort(orders[form.elements.order.value]));
  form.addEventListener("input", filter);
  form.elements.order.addEventListener("change", sort);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => (filter(), sort())));
  filter();
  sort();
})();
