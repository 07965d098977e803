// A click on a number of the scale: that number becomes the component's value, and the page is told.
element.addEventListener("click", (event) => {
  const mark = event.target.closest("button[data-k]");
  if (!mark) return;
  props.value = Number(mark.dataset.k);
  trigger("click");
});
