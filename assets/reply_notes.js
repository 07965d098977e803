// Puts every reply's quiet line under it, as text. The chatbot has no place for a line that is not part of
// the message, so it is added to each reply's row and put back whenever gradio draws the rows anew.
const place = () => {
  const lines = Array.isArray(props.value) ? props.value : [];
  document.querySelectorAll("#chat .message-row.bot-row").forEach((row, i) => {
    let note = row.querySelector(".reply-note");
    if (!note) {
      note = document.createElement("div");
      note.className = "reply-note";
      row.querySelector(".flex-wrap")?.append(note);
    }
    const line = lines[i] ?? "";
    if (note.textContent !== line) note.textContent = line;
    note.hidden = !line;
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
