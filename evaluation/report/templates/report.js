"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  for (const key of all("button.key")) {
    key.addEventListener("click", () => {
      const on = key.getAttribute("aria-pressed") !== "true";
      const series = key.dataset.series;
      for (const twin of all(`button.key[data-series="${series}"]`)) twin.setAttribute("aria-pressed", String(on));
      for (const part of all(`.series[data-series="${series}"]`)) part.classList.toggle("off", !on);
    });
  }

  for (const select of all("select.axis-choice")) {
    select.addEventListener("change", () => {
      for (const view of all("[data-axis]", select.closest(".group"))) view.hidden = view.dataset.axis !== select.value;
    });
  }

  for (const box of all("input.show-runs-choice")) {
    box.addEventListener("change", () => box.closest(".group").classList.toggle("show-runs", box.checked));
  }

  const tip = document.getElementById("tip");
  const format = (value) => (Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)))).replace("-", "\u2212");

  const row = (series, colour, index) => {
    const line = document.createElement("div");
    line.className = `c${colour}`;
    const name = document.createElement("span");
    name.textContent = series.name;
    const value = document.createElement("span");
    value.textContent = format(series.y[index]);
    if (series.low) {
      const range = document.createElement("small");
      range.textContent = ` ${format(series.low[index])} to ${format(series.high[index])}`;
      value.append(range);
    }
    line.append(document.createElement("i"), name, value);
    return line;
  };

  const nearest = (list, value) => list.reduce((best, item, i) => (Math.abs(item - value) < Math.abs(list[best] - value) ? i : best), 0);

  for (const svg of all("svg.plot")) {
    if (!svg.dataset.hover) continue;
    const data = JSON.parse(svg.dataset.hover);
    const groups = all("g.series", svg);
    let cursor = null;
    const leave = () => { tip.hidden = true; if (cursor) { cursor.remove(); cursor = null; } };
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const shown = data.series.map((series, i) => [series, groups[i]]).filter(([, g]) => !g.classList.contains("off"));
      if (!shown.length) return leave();
      const index = nearest(shown[0][0].at, x);
      const at = shown[0][0].at[index];
      if (!cursor) {
        cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
        cursor.setAttribute("class", "cursor");
        svg.append(cursor);
      }
      for (const [name, value] of [["x1", at], ["x2", at], ["y1", svg.dataset.top], ["y2", svg.dataset.bottom]]) cursor.setAttribute(name, value);
      const head = document.createElement("b");
      head.textContent = `${format(shown[0][0].x[index])} ${svg.dataset.axisLabel}`;
      tip.replaceChildren(head, ...shown.map(([series, g]) => row(series, g.dataset.series, Math.min(index, series.y.length - 1))));
      tip.hidden = false;
      const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
      const right = event.clientX + 18;
      tip.style.left = `${Math.max(8, right <= room ? right : event.clientX - tip.offsetWidth - 18) + window.scrollX}px`;
      tip.style.top = `${event.clientY + window.scrollY + 14}px`;
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  }
})();
