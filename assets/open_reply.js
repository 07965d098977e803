// A button under a reply was pressed (reply_notes.js says so): if it is this component's, the page's function is called.
document.addEventListener("open-reply", (event) => {
  if (event.detail.tab === props.tab) trigger("submit", event.detail.turn);
});
