// Single letters as shortcuts. They can be switched off, because speech input and screen readers type letters too.

import { byId } from "./dom.js";

const OFF = "swwatch no keys";

/** @param {Object<string, () => void>} actions by key */
export function listenToKeys(actions) {
  const box = byId("keys");
  box.checked = !localStorage.getItem(OFF);
  box.addEventListener("change", () => (box.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), select, textarea, dialog[open]");
    if (!box.checked || writing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
