// Buttons that copy the command, the Python or the SQL of what is on the screen.

import { element } from "./format.js";

const group = document.getElementById("copy");
const what = document.getElementById("copy-what");
const copied = element("output", { className: "copied faint", hidden: true });

/** Start: `texts` has, for each thing that can be copied, a function that returns its texts by kind. */
export function startCopying(texts) {
  const labels = Object.entries({ command: "command", python: "Python", sql: "SQL" });
  const buttons = labels.map(([kind, label]) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => copy(texts[what.value]()?.[kind]));
    return button;
  });
  group.append(...buttons);
  group.after(copied);
  what.addEventListener("change", clearCopied);
}

/** Forget the text of another pair or thing. */
export function clearCopied() {
  copied.hidden = true;
}

async function copy(text) {
  copied.hidden = false;
  copied.textContent = text ?? "there is nothing to copy yet";
  if (text) await navigator.clipboard?.writeText(text).catch(() => {});
}

