"use strict";
(() => {
  const part = (id) => document.getElementById(id);
  const boxes = part("form").elements, forked = part("fork-form").elements, measured = part("measure-form").elements;
  const buttons = [boxes.draw, boxes.sample, forked.fork, measured.measure, boxes.read, boxes.next].filter(Boolean);
  let shown = null;

  // Asks the server, one request at a time; "computing" is shown on one part of the page, and what
  // is wrong above the response. Answers undefined then.
  async function ask(name, sent, place) {
    if (buttons[0].disabled) return undefined;
    part("error").textContent = "";
    part(place).setAttribute("aria-busy", "true");
    for (const button of buttons) button.disabled = true;
    try {
      const answer = await fetch(name, {method: "POST", body: JSON.stringify(sent), referrerPolicy: "same-origin"});
      const told = await answer.json();
      if (answer.ok) return told;
      part("error").textContent = told.detail;
    } catch (error) {
      part("error").textContent = `the server does not answer (${error.message})`;
    } finally {
      part(place).removeAttribute("aria-busy");
      for (const button of buttons) button.disabled = false;
    }
    return undefined;
  }

  const number = (box) => box.value === "" ? null : Number(box.value);
  const policy = () => ({agent: boxes.agent.value, env: boxes.env.value});

  async function begin(chosen) {
    const told = await ask("begin", chosen, "response");
    if (!told) return;
    for (const name of ["agent", "env", "prompt", "temperature"]) boxes[name].value = told[name];
    boxes.rules.value = told.rules.join("\n");
    await (ofFile() ? read() : sample());
  }

  // Whether the chosen task is the one whose tokens the file's responses are.
  const ofFile = () => boxes.read && boxes.read.value === boxes.env.value;

  const rules = () => boxes.rules.value.split("\n").map((rule) => rule.trim()).filter(Boolean);

  async function sample() {
    show(await ask("sample", {
      ...policy(), rules: rules(), prompt: boxes.prompt.value, seed: number(boxes.seed), temperature: number(boxes.temperature),
    }, "response"));
  }

  // Shows a response of the file that the command named, in the file's task.
  async function read() {
    if (!ofFile()) return begin({agent: null, env: boxes.read.value});
    const told = await ask("read", {...policy(), rules: rules(), number: number(boxes.stored)}, "response");
    if (told) boxes.prompt.value = told.prompt;
    show(told);
  }

  function show(told) {
    if (!told) return;
    shown = told.shown;
    part("response").innerHTML = told.html;
    const words = told.tokens.map((token, index) => new Option(`${index + 1} \u00b7 ${token}`, index));
    forked.index.replaceChildren(new Option("choose a token above, or here", ""), ...words);
    part("fork-form").hidden = part("measure-form").hidden = false;
    offer([]);
  }

  // Shows the executed worth of every token as the response's truth.
  async function measure() {
    const told = await ask("measure", {shown, count: number(measured.count)}, "response");
    if (told) part("response").innerHTML = told.html;
  }

  // Lists the alternatives at the chosen token, the likeliest other one chosen.
  function offer(alternatives) {
    const index = forked.index.value;
    part("chosen").textContent = index === "" ? "" :
      `#response .line .response .token:nth-child(${Number(index) + 1}) { outline: 2px solid var(--accent); }`;
    part("fork").replaceChildren();
    part("forking").hidden = index === "";
    for (const label of part("alternatives").querySelectorAll("label")) label.remove();
    const first = alternatives.find((each) => !each.taken);
    for (const each of alternatives) {
      const label = document.createElement("label"), box = document.createElement("input");
      Object.assign(box, {type: "radio", name: "token_id", value: each.id, checked: each === first});
      label.append(box, each.label);
      part("alternatives").append(label);
    }
  }

  // Scrolls to what an answer filled, which may be below what the reader sees.
  function reveal(name) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    part(name).scrollIntoView({block: "nearest", behavior: still ? "auto" : "smooth"});
  }

  async function choose() {
    offer([]);
    if (forked.index.value === "") return;
    reveal("fork-form");
    const told = await ask("choose", {shown, index: number(forked.index)}, "alternatives");
    if (!told) return;
    offer(told.alternatives);
    reveal("fork-form");
  }

  async function fork() {
    const chosen = document.querySelector("[name=token_id]:checked");
    const told = await ask("fork", {
      shown, index: number(forked.index), token_id: chosen && Number(chosen.value), count: number(forked.count),
    }, "fork");
    if (!told) return;
    part("fork").innerHTML = told.html;
    reveal("fork");
  }

  for (const form of [part("form"), part("measure-form"), part("fork-form")]) form.addEventListener("submit", (event) => event.preventDefault());
  boxes.agent.addEventListener("change", () => begin(policy()));
  boxes.env.addEventListener("change", () => begin({...policy(), agent: null}));
  boxes.rule.addEventListener("change", () => {
    const rules = boxes.rules.value.split("\n").filter((rule) => rule.trim());
    if (boxes.rule.value) boxes.rules.value = [...rules, boxes.rule.value].join("\n");
    boxes.rule.value = "";
  });
  boxes.draw.addEventListener("click", async () => {
    const told = await ask("draw", policy(), "response");
    if (!told) return;
    boxes.prompt.value = told.prompt;
    await sample();
  });
  boxes.sample.addEventListener("click", sample);
  if (boxes.read) {
    boxes.read.addEventListener("click", read);
    boxes.stored.addEventListener("change", read);
    boxes.next.addEventListener("click", () => {
      boxes.stored.value = number(boxes.stored) % Number(boxes.stored.max) + 1;
      read();
    });
  }
  measured.measure.addEventListener("click", measure);
  forked.index.addEventListener("change", choose);
  forked.fork.addEventListener("click", fork);
  part("response").addEventListener("click", (event) => {
    const token = event.target.closest(".line .response .token");
    if (!token || buttons[0].disabled) return;
    forked.index.value = [...token.parentNode.children].indexOf(token);
    choose();
  });
  begin(policy());
})();
