// What the model looks at.

import { className } from "./classes.js";
import { drawHeat, drawScale, markCell, scaleFor } from "./heat.js";
import { $, clearError, nameSlider, percent } from "./page.js";
import { ask, loadImage, run } from "./requests.js";
import { can, state } from "./state.js";

/** The server's explanation, with the method and the picture as an image. */
let shown;

/** What a method shows, and what it needs: attention, a class, a place. Signed ones have numbers against a class. */
const METHODS = {
  attention: { label: "Attention", note: "Where each layer and head looks.", attention: true },
  rollout: { label: "Attention rollout", note: "Attention followed through all layers.", attention: true },
  relevance: {
    label: "Relevance",
    note: "Attention through all layers, weighted by gradients of a class.",
    attention: true,
    target: true,
  },
  grad_cam: {
    label: "Grad-CAM",
    note: "Feature maps of the last block, weighted by gradients of a class.",
    target: true,
  },
  integrated_gradients: {
    label: "Integrated gradients",
    note: "Pixels that speak for a class (red) and against it (blue). Takes longer.",
    target: true,
    signed: true,
  },
  occlusion: {
    label: "Occlusion",
    note: "What a class loses (red) or gains (blue) when a part is hidden. Takes longer.",
    target: true,
    signed: true,
  },
  similarity: { label: "Similarity", note: "How much other places are like one, for the model.", place: true },
};

function method() {
  return METHODS[$("method").value];
}

/** Lists the methods that the model has, and forgets the choices of another one. */
export function offerMethods() {
  for (const field of [$("row"), $("column")]) field.value = "";
  $("layer").dataset.chosen = "";
  fillMethods();
}

/** The first method is the default: attention, else Grad-CAM. */
function fillMethods() {
  const before = $("method").value;
  const fits = ({ attention, target }) => (!attention || state.model.has_attention) && (!target || can("predict"));
  const names = Object.keys(METHODS).filter((name) => fits(METHODS[name]));
  $("method").replaceChildren(...names.map((name) => new Option(METHODS[name].label, name)));
  $("method").value = names.includes(before) ? before : names[0];
  showMethod();
}

function showMethod() {
  const { note, target, place } = method();
  $("method-note").textContent = note;
  $("target-field").hidden = !target;
  $("patch-field").hidden = !place;
  $("overlay").classList.toggle("pick", Boolean(place));
}

export function explainParams() {
  const { target, place } = method();
  const [row, column] = (place && chosenPlace()) || [];
  const wanted = target ? $("target").value : "";
  return { model: state.model.name, method: $("method").value, target: wanted || undefined, row, column };
}

/** Row and column from 0 of the place in the fields, which count from 1. Undefined for the middle. */
function chosenPlace() {
  const [row, column] = [$("row").value, $("column").value];
  return row && column ? [row - 1, column - 1] : undefined;
}

export async function explain() {
  $("figure").removeAttribute("aria-busy");
  if (!can("explain") || !state.picture) return;
  const name = $("method").value;
  $("caption").textContent = `${method().label} …`;
  const done = await run("explain", $("figure"), async (signal) => {
    const { answer } = await ask("explain", { params: explainParams(), picture: state.picture.file, signal });
    checkMap(answer.map);
    for (const { grid, heads } of answer.layers ?? []) {
      if (!heads?.length) throw new Error("The server's attention has a layer without heads.");
      heads.forEach((values) => checkMap({ grid, values }));
    }
    const image = await loadImage(answer.picture);
    signal.throwIfAborted();
    showExplanation({ ...answer, image, method: name });
  }, explainAgain);
  if (done === false) clearFigure();
}

/** Explains as the controls stand now. */
function explainAgain() {
  clearError();
  explain();
}

/** Refuses a map that does not fill its grid, so that no wrong one is drawn. */
function checkMap(map) {
  const [rows, columns] = map?.grid ?? [0, 0];
  if (!map || map.values.length !== rows * columns) throw new Error("The server's map does not fill its grid.");
  if (!map.values.every(Number.isFinite)) throw new Error("The server's map has values that are not numbers.");
}

export function clearFigure() {
  $("figure").removeAttribute("aria-busy");
  shown = undefined;
  const canvas = $("overlay");
  canvas.width = canvas.height = 1;
  canvas.setAttribute("aria-label", "No explanation yet");
  $("scale").hidden = true;
  $("caption").textContent = "";
  $("layer-field").hidden = $("head-field").hidden = true;
}

function showExplanation(answer) {
  shown = answer;
  const layers = answer.layers ?? [], [rows, columns] = answer.map.grid;
  $("layer-field").hidden = $("head-field").hidden = layers.length === 0;
  if (layers.length) {
    const chosen = $("layer").dataset.chosen || layers.length;
    $("layer").max = layers.length;
    $("layer").value = chosen;
  }
  const { label, place } = METHODS[answer.method], { target } = answer;
  if (place) {
    $("row").max = rows;
    $("column").max = columns;
  }
  const prob = target && !state.regression ? ` (${percent(target.prob)})` : "";
  const what = target ? `${label} for ${className(target)}${prob}` : label;
  $("caption").textContent = `${what}, on what the model sees: ${answer.width} × ${answer.height} pixels`;
  drawExplanation();
}

/** The map that the sliders choose. */
function chosenMap() {
  const { layers, map } = shown;
  if (!layers?.length) return map;
  const { grid, heads } = layers[$("layer").value - 1];
  const head = Number($("head").value);
  return { grid, values: head ? heads[head - 1] : mean(heads) };
}

function mean(maps) {
  return maps[0].map((_, at) => maps.reduce((sum, map) => sum + map[at], 0) / maps.length);
}

function nameSliders() {
  nameSlider("strength", `${$("strength").value} %`);
  const layers = shown?.layers ?? [];
  if (!layers.length) return "";
  const at = Number($("layer").value), { name, heads } = layers[at - 1];
  $("head").max = heads.length;
  const head = Number($("head").value);
  nameSlider("layer", `${at} of ${layers.length}: ${name}`);
  nameSlider("head", head ? `${head} of ${heads.length}` : `mean of ${heads.length}`);
  return `, layer ${at} of ${layers.length}, ${head ? `head ${head}` : "mean of all heads"}`;
}

/** Draws the explanation as the sliders stand. */
function drawExplanation() {
  const place = nameSliders();
  if (!shown) return;
  const { image, method: name } = shown, { signed, place: picks } = METHODS[name];
  const map = chosenMap(), scale = scaleFor(map.values, signed);
  drawHeat($("overlay"), image, map, scale, $("strength").value / 100);
  if (picks && chosenPlace()) markCell($("overlay"), map.grid, chosenPlace());
  drawScale(scale);
  $("overlay").setAttribute("aria-label", describe(METHODS[name].label + place, map));
}

/** A map in words: where it is strongest. */
function describe(title, { grid: [rows, columns], values }) {
  const most = values.reduce((best, value, at) => (value > values[best] ? at : best), 0);
  const [row, column] = [Math.floor(most / columns) + 1, (most % columns) + 1];
  return `${title}. Strongest in row ${row} of ${rows}, column ${column} of ${columns}.`;
}

/** A number within a field's range. */
function clampField(field) {
  const most = field.max === "" ? Infinity : Number(field.max);
  if (field.value !== "") field.value = Math.min(Math.max(Math.round(Number(field.value)), 1), most);
}

/** Asks for the place in the fields. A field that is empty becomes the middle. */
function explainPlace() {
  const grid = METHODS[shown?.method]?.place && shown.map.grid;
  const fields = [$("row"), $("column")];
  fields.forEach(clampField);
  const empty = fields.filter(({ value }) => value === "").length;
  if (empty === 1) {
    if (!grid) return;
    fields.forEach((field, axis) => { field.value ||= Math.floor(grid[axis] / 2) + 1; });
  }
  explainAgain();
}

export function watchExplanation() {
  $("method").addEventListener("change", () => { showMethod(); explainAgain(); });
  $("target").addEventListener("change", explainAgain);
  for (const name of ["row", "column"]) $(name).addEventListener("change", explainPlace);
  for (const name of ["layer", "head", "strength"]) $(name).addEventListener("input", drawExplanation);
  $("layer").addEventListener("input", ({ target }) => { target.dataset.chosen = target.value; });
  $("overlay").addEventListener("click", ({ offsetX, offsetY, target }) => {
    const { method: name, map } = shown ?? {};
    if (!METHODS[name]?.place || !method().place) return;
    $("row").value = Math.floor((offsetY / target.clientHeight) * map.grid[0]) + 1;
    $("column").value = Math.floor((offsetX / target.clientWidth) * map.grid[1]) + 1;
    explainPlace();
  });
  nameSliders();
}
