// Buttons that copy the command, the Python or the SQL of what is on the screen.

import { element } from "./format.js";

/** Fill the groups of buttons; `texts` has for each a function that returns the texts by kind. */
export function startCopying(texts) {
  for (const group of document.querySelectorAll("[data-copy-of]")) {
    const copied = element("output", { className: "copied faint", hidden: true });
    const labels = Object.entries({ command: "command", python: "Python", sql: "SQL" });
    const buttons = labels.map(([kind, label]) => {
      const button = element("button", { type: "button" }, label);
      button.addEventListener("click", () => copy(texts[group.dataset.copyOf]()?.[kind], copied));
      return button;
    });
    group.append(element("span", { className: "faint" }, "copy as"), ...buttons, copied);
  }
}

async function copy(text, copied) {
  copied.hidden = false;
  copied.textContent = text ?? "there is nothing to copy yet";
  if (text) await navigator.clipboard?.writeText(text).catch(() => {});
}

