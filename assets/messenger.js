// Passes a word of the page's scripts on to the page's functions: a CustomEvent named props.hears whose detail.to is
// props.me calls the function on this component's submit, with detail.what.
document.addEventListener(props.hears, (event) => {
  if (event.detail.to === props.me) trigger("submit", event.detail.what);
});
