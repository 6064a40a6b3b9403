// Questions before something changes, and notes on what has. A dialog is modal, closes by Escape, and gives the focus back.

import { h, icon } from "./dom.js";

/** Ask; the values of the form's fields, or null if nothing shall happen. `body` are nodes or strings, `action` the word on the
 * button; `act(values)`, if given, does it while the dialog stays, and what it throws is shown there. */
export function ask({ title, body = [], action, danger = false, act = null }) {
  return new Promise((resolve) => {
    const problem = h("p", { class: "bad-text", role: "alert" });
    const go = h("button", { type: "submit", class: danger ? "danger" : "primary", value: "go" }, action);
    const cancel = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), h("div", { class: "body" }, ...body), problem, h("div", { class: "buttons" }, cancel, go));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let answer = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      go.disabled = true;
      dialog.classList.add("stays"); // nobody else tells what comes of it
      problem.textContent = "";
      try {
        answer = act ? ((await act(values)) ?? values) : values;
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        dialog.classList.remove("stays");
        go.disabled = false;
        go.focus();
      }
    });
    show(dialog, () => resolve(answer));
    if (danger) cancel.focus();
  });
}

/** Show something until it is closed. `careful`: not by Escape, nor by going elsewhere, for what is shown once. */
export function tell({ title, body, close = "Close", careful = false, wide = false }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", class: wide ? "wide" : careful ? "stays" : "" },
      h("div", { class: "sheet" }, h("h2", { id: "dialog-title" }, title), h("div", { class: "body" }, ...body),
        h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, close))));
    if (careful) dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.preventDefault());
    if (careful) dialog.addEventListener("cancel", (event) => event.preventDefault());
    show(dialog, resolve);
  });
}

function show(dialog, closed) {
  dialog.addEventListener("close", () => {
    dialog.remove();
    closed();
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** Close what belongs to where one was. */
export function leave() {
  for (const dialog of document.querySelectorAll("dialog[open]:not(.stays)")) dialog.close();
}

/** A note at the edge that goes by itself; read out by screen readers. */
export function toast(kind, words) {
  const node = h("div", { class: `toast ${kind}` }, icon(kind), h("span", {}, words));
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), kind === "bad" ? 12_000 : 5000);
}

/** A button that copies what `text()` gives, and says so. */
export function copier(text, what = "Copy") {
  const words = h("span", {}, what);
  const button = h("button", { type: "button", class: "quiet copy" }, icon("copy"), words);
  button.addEventListener("click", async () => {
    words.textContent = (await copy(text())) ? "Copied" : "Select it and copy by hand";
    setTimeout(() => (words.textContent = what), 2500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https only this old way works.
    const field = h("textarea", { class: "offscreen", "aria-hidden": "true" }, text);
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
