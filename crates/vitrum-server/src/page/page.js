// Elements of the page, numbers in words, and messages.

export const $ = (id) => document.getElementById(id);

/** A new element with a class and a text. */
export function make(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

/** A probability in words. Rounding never makes one certain or impossible. */
export function percent(prob) {
  if (prob > 0 && prob < 0.0005) return "< 0.1 %";
  if (prob < 1 && prob >= 0.9995) return "> 99.9 %";
  return `${(100 * prob).toFixed(1)} %`;
}

export function duration(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

/** A number with three digits, for the ends of a scale. */
export function brief(number) {
  const small = number !== 0 && Math.abs(number) < 0.001;
  return small ? number.toExponential(1) : Number(number.toPrecision(3)).toString();
}

export function count(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  return number >= 1000 ? `${Math.round(number / 1000)} k` : String(number);
}

export function say(text) {
  $("status").textContent = text;
}

/** Shows an error. `again` repeats what failed. */
export function fail(error, again) {
  say("");
  $("error").textContent = error.message;
  $("again").hidden = !again;
  $("again").onclick = again;
}

export function clearError() {
  $("error").textContent = "";
  $("again").hidden = true;
}

/** Writes what a slider stands at beside it, for eyes and for screen readers. */
export function nameSlider(name, text) {
  $(`${name}-name`).textContent = text;
  $(name).setAttribute("aria-valuetext", text);
}
