// The classes of a picture.

import { $, brief, duration, make, percent, say } from "./page.js";
import { ask, run } from "./requests.js";
import { state } from "./state.js";

/** The name of a class, or its index if it has none. */
export function className({ index, label }) {
  const nameless = !label || label === String(index);
  return nameless ? `${state.regression ? "output" : "class"} ${index}` : label;
}

/** The probability of a class, or the number of a regression. */
function amount({ prob, value }) {
  return value === undefined ? percent(prob) : brief(value);
}

const TOP_K = 5;

export function predictParams() {
  return { model: state.model.name, top_k: TOP_K };
}

/** Asks for the classes. `again` repeats it. */
export function predict(again) {
  const { file, note } = state.picture;
  return run("predict", $("classes"), async (signal) => {
    say(`${note}${state.model.name} looks at the picture …`);
    const { answer, elapsed } = await ask("predict", { params: predictParams(), picture: file, signal });
    const [result] = answer.results ?? [];
    const answers = checked(result);
    showClasses(answers);
    showTiming({ ...answer.timing_ms, "round trip": elapsed });
    const first = `${className(answers[0])}, ${amount(answers[0])}.`;
    say(result.values ? `${note}Answer: ${first}` : `${note}Best class: ${first}`);
  }, again);
}

/** The classes of a result, or the values of a regression. Refuses those without numbers. */
function checked(result) {
  const answers = result?.predictions ?? result?.values;
  if (!answers?.length) throw new Error("The server's answer has no classes.");
  if (!answers.every(({ prob, value }) => Number.isFinite(value ?? prob))) {
    throw new Error("The server's answer has values that are not numbers.");
  }
  return answers;
}

export function clearClasses() {
  $("no-classes").hidden = false;
  $("classes-body").hidden = true;
}

function showClasses(predictions) {
  state.regression = predictions[0].value !== undefined;
  $("bars").replaceChildren(...predictions.map(classRow));
  $("no-classes").hidden = true;
  $("classes-body").hidden = false;
  const options = predictions.map((class_) => new Option(className(class_), class_.index));
  $("target").replaceChildren(new Option("the best one", ""), ...options);
}

/** A row of the table: a name, and a bar with a percentage. The value of a regression has no bar. */
function classRow(class_) {
  const row = make("tr"), name = make("th", "", className(class_)), cell = make("td");
  const bar = make("div", "bar"), track = make("div"), fill = make("div", "fill");
  name.scope = "row";
  if (class_.value === undefined) {
    track.className = "track";
    track.setAttribute("aria-hidden", "true");
    fill.style.width = `${100 * Math.min(Math.max(class_.prob, 0), 1)}%`;
    track.append(fill);
  }
  bar.append(track, make("span", "number", amount(class_)));
  cell.append(bar);
  row.append(name, cell);
  return row;
}

function showTiming(timing) {
  const parts = ["decode", "queue", "compute", "round trip"].filter((name) => Number.isFinite(timing[name]));
  $("timing").replaceChildren(...parts.map((name) => {
    const part = make("div");
    part.append(make("dt", "", name), make("dd", "", duration(timing[name])));
    return part;
  }));
}
