// What the scripts of the views build their pages with. Texts enter through textContent only.
const $ = (name) => element.querySelector(name);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
