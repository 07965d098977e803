// Puts under every reply its quiet line, as text, and the buttons that open it elsewhere. The chatbot has no place for
// what is not part of the message, so it is added to each reply's row and put back whenever gradio draws the rows anew.
const NO_LONGER = "Its routing is no longer kept, so it cannot be opened elsewhere.";

const buttonsOf = (opens, turn) => opens.map(([name, label]) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label;
  button.setAttribute("aria-label", name === "map" ? "Show the map of this reply" : `Open this reply in ${label}`);
  button.addEventListener("click", () => document.dispatchEvent(new CustomEvent("open-reply", { detail: { to: name, what: turn } })));
  return button;
});

const put = (row, className) => {
  let node = row.querySelector(`.${className}`);
  if (!node) {
    node = document.createElement("div");
    node.className = className;
    row.querySelector(".flex-wrap")?.append(node);
  }
  return node;
};

const place = () => {
  const { opens = [], replies = [] } = props.value ?? {};
  document.querySelectorAll("#chat .message-row.bot-row").forEach((row, i) => {
    const { line = "", turn = "", kept = false, gone = false } = replies[i] ?? {};
    const note = put(row, "reply-note");
    if (note.textContent !== line) note.textContent = line;
    note.hidden = !line;
    const open = put(row, "reply-open");
    const state = `${turn} ${kept} ${gone}`;
    if (open.dataset.state === state) return;
    open.dataset.state = state;
    open.hidden = !kept && !gone;
    open.replaceChildren(...(kept ? buttonsOf(opens, turn) : gone ? [NO_LONGER] : []));
  });
};

let asked = false;
const soon = () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; place(); unescapeEditors(); });
};

watch("value", soon);
const wait = setInterval(() => {
  const chat = document.querySelector("#chat");
  if (!chat) return;
  clearInterval(wait);
  new MutationObserver(soon).observe(chat, { childList: true, subtree: true });
  soon();
}, 50);
