// The chatbot takes its text for HTML, so "<" and "&" that could be markup reach it escaped. What leaves it
// through its Copy button, and what its editor shows, is the text itself again.
const asSaid = (text) => text.replace(/&(amp|lt);/g, (_, name) => (name === "amp" ? "&" : "<"));

let copying = false; // during a click on a button of the chatbot
document.addEventListener("click", (event) => {
  copying = Boolean(event.target.closest?.("#chat button"));
  setTimeout(() => { copying = false; });
}, true);

if (navigator.clipboard) {
  const write = navigator.clipboard.writeText.bind(navigator.clipboard);
  navigator.clipboard.writeText = (text) => write(copying ? asSaid(text) : text);
}
document.addEventListener("copy", (event) => { // without navigator.clipboard gradio copies from a textarea
  if (!copying || event.target.tagName !== "TEXTAREA") return;
  event.clipboardData.setData("text/plain", asSaid(event.target.value));
  event.preventDefault();
}, true);

const unescapeEditors = () => {
  for (const editor of document.querySelectorAll("#chat textarea.edit-textarea:not([data-as-said])")) {
    editor.dataset.asSaid = "";
    editor.setAttribute("aria-label", "Edit your message");
    const text = asSaid(editor.value);
    if (text === editor.value) continue;
    editor.value = text;
    editor.dispatchEvent(new Event("input", { bubbles: true }));
  }
};
