// Links to a view: the view's JSON in the address's fragment, which no server sees. Reads one when the page comes, writes
// one when asked, and passes what is opened on to its tab.
const PREFIX = "#view=";
const encode = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const decode = (coded) => {
  try {
    const bytes = Uint8Array.from(atob(coded.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return ""; // no view: the page says so
  }
};
const say = (text) => {
  const place = document.querySelector("#share-said .plain-text");
  place.textContent = text;
  place.hidden = false;
};
const tell = (name, to, what) => document.dispatchEvent(new CustomEvent(name, { detail: { to, what } }));

// A button of the header: of the tab that is in view.
document.addEventListener("share", (event) => {
  const shown = [...document.querySelectorAll("#tabs > [role=tabpanel]")].find((node) => node.offsetParent);
  const tab = shown?.id.replace(/^panel-/, "");
  if (props.tabs.includes(tab)) tell(`share-${event.detail}`, tab);
  else trigger("submit", null);
});

async function take() {
  if (!props.value) return;
  const value = JSON.parse(props.value);
  if (value.open) return tell("open-view", value.tab, value.open);
  const link = location.origin + location.pathname + location.search + PREFIX + encode(value.view);
  history.replaceState(null, "", link);
  try {
    await navigator.clipboard.writeText(link);
    say("The link is copied, and stands in the address bar.");
  } catch {
    say("The link stands in the address bar.");
  }
}
watch("value", take);
const read = () => {
  if (location.hash.startsWith(PREFIX)) trigger("submit", decode(location.hash.slice(PREFIX.length)));
};
window.addEventListener("hashchange", read);
read();
