// Wires the parts. `element`, `props`, `trigger` and `watch` are gradio's; see components/html.py of gradio.

const part = (name) => element.querySelector(`[data-part="${name}"]`);
const about = props.about;
const state = { walk: null, step: 0, layer: 0, number: 0, waiting: false, wanted: null, aim: -1, asked: false };

// Asking -------------------------------------------------------------------------------------------------------------

part("text").value = about.first_text;
part("k").max = String(about.num_experts);
part("k").value = String(about.default_k);
const showK = () => { part("k-shown").textContent = part("k").value; };
showK();
part("k").addEventListener("input", showK);

const grow = () => {
  part("text").style.height = "auto";
  if (part("text").scrollHeight) part("text").style.height = `${part("text").scrollHeight + 2}px`;
};
part("text").addEventListener("input", grow);
part("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  part("form").requestSubmit();
});
part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask({ text: part("text").value, k: Number(part("k").value), weighting: part("weighting").value, token: -1 });
});
for (const name of ["k", "weighting"]) { // what was walked, at the new setting
  part(name).addEventListener("change", () => {
    if (state.walk) ask({ ...asWalked(), k: Number(part("k").value), weighting: part("weighting").value });
  });
}

function asWalked() {
  const { text, k, weighting, token } = state.walk;
  return { text, k, weighting, token };
}

// One question at a time; of those asked meanwhile only the last matters.
function ask(question) {
  state.asked = true;
  state.aim = question.token;
  if (state.waiting) {
    state.wanted = question;
    return;
  }
  state.waiting = true;
  state.number += 1;
  element.querySelector(".in").setAttribute("aria-busy", "true");
  part("go").disabled = true;
  trigger("submit", { ...question, number: state.number });
}

function take() {
  if (!props.value) return;
  const value = JSON.parse(props.value);
  if (value.open) { // a chat's reply
    part("text").value = value.open.text;
    part("k").value = String(value.open.k);
    part("weighting").value = value.open.weighting;
    showK();
    grow();
    return ask(value.open);
  }
  if (value.number !== null && value.number !== state.number) return; // of an earlier page
  state.waiting = false;
  element.querySelector(".in").setAttribute("aria-busy", "false");
  part("go").disabled = false;
  part("error").hidden = !value.error;
  part("error").textContent = value.error || "";
  const next = state.wanted;
  state.wanted = null;
  if (next) return ask(next);
  if (value.error) {
    part("empty").textContent = state.walk ? "" : "Nothing to show yet.";
    return;
  }
  state.walk = readWalk(value);
  state.layer = Math.min(state.layer, state.walk.layers.length - 1);
  part("empty").textContent = "";
  part("walk").hidden = false;
  draw();
  say(`Walked through ${plural(state.walk.ids.length, "token")} at k ${state.walk.k}. ${spoken()}`);
}

// Moving -------------------------------------------------------------------------------------------------------------

const within = (value, length) => Math.max(0, Math.min(length - 1, value));
const spoken = () => `${STEPS[state.step].name}, ${placeText()}.`;

function goTo(step, layer) {
  const to = within(step, STEPS.length), at = within(layer, state.walk.layers.length);
  if (to === state.step && at === state.layer) return;
  state.step = to;
  state.layer = at;
  draw();
  say(spoken());
}

// The token that is shown, or on its way.
function tokenNow() {
  return state.waiting && state.aim >= 0 ? state.aim : state.walk.token;
}

function goToToken(token) {
  const to = within(token, state.walk.ids.length);
  if (to !== tokenNow()) ask({ ...asWalked(), token: to });
}

part("walk").addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = event.shiftKey
    ? { ArrowRight: () => goToToken(tokenNow() + 1), ArrowLeft: () => goToToken(tokenNow() - 1) }
    : {
      ArrowRight: () => goTo(state.step + 1, state.layer), ArrowLeft: () => goTo(state.step - 1, state.layer),
      ArrowDown: () => goTo(state.step, state.layer + 1), ArrowUp: () => goTo(state.step, state.layer - 1),
      Home: () => goTo(0, state.layer), End: () => goTo(STEPS.length - 1, state.layer),
    };
  if (!act[event.key]) return;
  event.preventDefault();
  const inside = event.target.closest("[data-part=flow], [data-part=layers], [data-part=tokens]");
  act[event.key]();
  const now = inside && inside.querySelector("[aria-current]"); // focus goes with what is chosen
  if (now) now.focus({ preventScroll: inside.dataset.part !== "tokens" });
});
part("back").addEventListener("click", () => goTo(state.step - 1, state.layer));
part("next").addEventListener("click", () => goTo(state.step + 1, state.layer));

// Drawing ------------------------------------------------------------------------------------------------------------

function say(text) {
  part("announce").textContent = text;
}

function isInLayer() {
  return ["attention", "experts"].includes(STEPS[state.step].part);
}

function placeText() {
  const of = `token ${state.walk.token} ${quoted(state.walk.pieces[state.walk.token])}`;
  return isInLayer() ? `layer ${state.layer} of ${state.walk.layers.length}, ${of}` : of;
}

function current(node, on) {
  if (on) node.setAttribute("aria-current", "true");
  else node.removeAttribute("aria-current");
}

// Buttons that stay (and keep the focus) while what they stand for is the same.
function buttons(place, names, build, choose) {
  if (place.dataset.names !== JSON.stringify(names)) {
    place.dataset.names = JSON.stringify(names);
    place.replaceChildren(...names.map((_, i) => {
      const button = build(i);
      button.type = "button";
      button.addEventListener("click", () => choose(i));
      return button;
    }));
  }
  return Array.from(place.children);
}

function drawChoosers() {
  const { walk } = state;
  buttons(part("tokens"), walk.pieces, () => make("button"), goToToken).forEach((button, i) => {
    button.textContent = visible(walk.pieces[i], false);
    button.setAttribute("aria-label", `Token ${i}: ${visible(walk.pieces[i], false)}`);
    current(button, i === walk.token);
  });
  const most = Math.max(...walk.layers.map((layer) => layer.mass));
  buttons(part("layers"), walk.layers.map((_, i) => i), () => make("button", null, make("i", { "aria-hidden": "true" }), make("span")), (i) => goTo(isInLayer() ? state.step : STEPS.findIndex((s) => s.part === "attention"), i))
    .forEach((button, i) => {
      button.style.setProperty("--part", (walk.layers[i].mass / most).toFixed(3));
      button.title = `Layer ${i}: mass ${walk.layers[i].mass.toFixed(3)}`;
      button.setAttribute("aria-label", button.title);
      button.lastChild.textContent = String(i);
      current(button, i === state.layer && isInLayer());
    });
}

function drawFlow() {
  const list = part("flow");
  if (!list.children.length) {
    let box = null;
    STEPS.forEach((step, i) => {
      if (step.part === "attention" && !box) {
        const title = make("p", { "data-part": "flow-layer" });
        box = make("ol");
        list.append(make("li", { class: "in-box" }, title, box));
      }
      const within = ["attention", "experts"].includes(step.part) ? box : list;
      within.append(make("li", { class: step.node ? "in-node" : ["attention", "experts"].includes(step.part) ? "in-branch" : "in-stem", "data-side": PARTS[step.part] },
        make("button", { type: "button", text: step.name, "data-step": String(i), click: () => goTo(i, state.layer) })));
    });
  }
  part("flow-layer").textContent = `Layer ${state.layer}, one of ${state.walk.layers.length} alike`;
  for (const button of list.querySelectorAll("button")) {
    current(button, Number(button.dataset.step) === state.step);
    const nav = list.parentElement; // on a narrow screen the flow is one line
    if (Number(button.dataset.step) === state.step && nav.scrollWidth > nav.clientWidth) {
      nav.scrollLeft += button.getBoundingClientRect().left - nav.getBoundingClientRect().left - (nav.clientWidth - button.clientWidth) / 2;
    }
  }
}

function checkText(name) {
  const check = name && state.walk.checks[name];
  if (!check) return "";
  const what = {
    attention: "These weights times the values, recomputed here, against the model\u2019s own attention output",
    residual: "The sum shown against the stream the model went on with",
    router: "Logits made from everything shown so far against the model\u2019s own",
    experts: "The sum shown against the model\u2019s own",
    logits: "Embedding, plus all that attention and experts were shown to add, normed, times the head, against the model\u2019s own logits",
  }[name];
  return `${check.passed ? "\u2713 Checked" : "\u2717 Does not add up"}. ${what}: relative error ${check.error === 0 ? "0" : check.error.toExponential(1)}`
    + `${name === "logits" ? "" : ", the largest of all layers"} (rounding in ${state.walk.shape.dtype} allows ${check.tolerance}).`;
}

function draw() {
  const { walk } = state, step = STEPS[state.step];
  const at = { walk, s: walk.shape, l: state.layer, layer: walk.layers[state.layer], piece: (i) => walk.pieces[i] };
  drawChoosers();
  drawFlow();
  part("place").textContent = `Step ${state.step + 1} of ${STEPS.length} \u00b7 ${placeText()}`;
  part("title").textContent = step.name;
  part("shape").textContent = step.shape(at);
  part("say").textContent = step.say(at);
  part("show").replaceChildren(step.show(at));
  part("check").textContent = checkText(step.check);
  part("check").classList.toggle("in-failed", Boolean(step.check) && !walk.checks[step.check].passed);
  part("truth").textContent = step.truth ? step.truth(at) : "";
  part("truth").hidden = !step.truth;
  part("back").disabled = state.step === 0;
  part("next").disabled = state.step === STEPS.length - 1;
}

watch("value", take);
const sizes = new ResizeObserver(() => {
  if (!element.clientWidth) return;
  grow();
  if (state.asked || state.walk) return;
  part("empty").textContent = about.at_once ? "Walking through the model\u2026" : "Press Walk through: one forward, every step of it in numbers.";
  if (about.at_once) part("form").requestSubmit(); // the tab came into view
});
sizes.observe(element);
take();
