"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  {# A chart is there twice, wide and narrow, and a line in every chart: all twins go together. #}
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

  const narrow = () => { // say where a table goes on beyond the edge
    for (const note of all(".swipe")) {
      const table = note.nextElementSibling;
      note.style.display = table.scrollWidth > table.clientWidth + 1 ? "block" : "none";
    }
  };
  addEventListener("resize", narrow);
  narrow();

  for (const button of all("button.copy")) {
    button.addEventListener("click", async () => {
      const said = button.textContent;
      try {
        await navigator.clipboard.writeText(button.dataset.text);
      } catch { // no permission, or an old browser
        const area = document.createElement("textarea");
        area.value = button.dataset.text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = said; }, 1500);
    });
  }

  const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font", "font-weight", "display"];
  {# A saved file has no style sheet: each element takes the style that it has on the page. #}
  const standalone = (svg) => { // with its styles in place, its legend below and the card's background
    const copy = svg.cloneNode(true);
    const twins = all("*", copy);
    all("*", svg).forEach((part, i) => {
      const style = getComputedStyle(part);
      twins[i].setAttribute("style", STYLES.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
    });
    const make = (name, values, text = "") => {
      const part = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(values)) part.setAttribute(key, value);
      part.textContent = text;
      return part;
    };
    const { width, height } = svg.viewBox.baseVal;
    const shown = svg.classList.contains("forest") ? [] : all("g.series:not(.off)", svg);
    const ink = getComputedStyle(document.body).color;
    shown.forEach((group, i) => {
      const y = height + 14 + 20 * i;
      const stroke = getComputedStyle(group.querySelector(".line")).stroke;
      copy.append(make("line", { x1: 52, x2: 72, y1: y, y2: y, style: `stroke:${stroke};stroke-width:3` }));
      copy.append(make("text", { x: 80, y: y + 4, style: `fill:${ink};font:13px sans-serif` }, group.dataset.name));
    });
    const whole = height + (shown.length ? 20 * shown.length + 8 : 0);
    const fill = getComputedStyle(svg.closest(".card")).backgroundColor;
    copy.prepend(make("rect", { width, height: whole, style: `fill:${fill}` }));
    for (const [key, value] of [["viewBox", `0 0 ${width} ${whole}`], ["width", width], ["height", whole], ["xmlns", "http://www.w3.org/2000/svg"]]) copy.setAttribute(key, value);
    delete copy.dataset.hover;
    return new XMLSerializer().serializeToString(copy);
  };

  for (const card of all(".card")) {
    if (!card.querySelector("svg.plot")) continue;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "save", textContent: "Save SVG" });
    button.addEventListener("click", () => {
      const svg = all("svg.plot", card).find((one) => getComputedStyle(one).display !== "none");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([standalone(svg)], { type: "image/svg+xml" }));
      link.download = `${svg.getAttribute("aria-label").replace(/\W+/g, "-").toLowerCase()}.svg`;
      link.click();
      {# Some browsers read the address only after the click has returned. #}
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    card.append(button);
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
      {# From pixels of the screen to those of the view box, in which the points are given. #}
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
