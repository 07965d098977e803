// Shows the value of a gr.HTML as text, whatever it holds.
const show = () => {
  const place = element.querySelector(".plain-text");
  place.textContent = props.value ?? "";
  place.hidden = !props.value;
};
show();
watch("value", show);
