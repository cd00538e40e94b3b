// Masked patches of the picture, filled in.

import { $, brief, clearError, make, nameSlider } from "./page.js";
import { ask, loadImage, run } from "./requests.js";
import { can, state } from "./state.js";

/** The pictures of an answer, in order, with what each of them shows. */
const VIEWS = {
  original: { label: "Original", note: "What the model sees of the picture without a mask" },
  masked: { label: "Masked", note: "The picture with grey in the place of masked patches" },
  reconstruction: { label: "Reconstruction", note: "The model's prediction of every patch" },
  pasted: { label: "Pasted", note: "The picture with the predictions of masked patches" },
};

/** The seed of the mask; the first is the one of the command line. */
let seed = 42;

/** Puts the slider to the share that the model was made for. */
export function offerMasks() {
  if (state.model.mask_ratio === undefined) return;
  $("mask-ratio").value = 100 * state.model.mask_ratio;
  nameRatio();
}

function nameRatio() {
  nameSlider("mask-ratio", `${$("mask-ratio").value} %`);
}

export function reconstructParams() {
  const ratio = Number($("mask-ratio").value) / 100;
  return { model: state.model.name, mask_ratio: ratio, mask_kind: $("mask-kind").value, seed };
}

export async function reconstruct() {
  $("views").removeAttribute("aria-busy");
  if (!can("reconstruct") || !state.picture) return;
  $("views-note").textContent = "The model fills in the masked patches …";
  const done = await run("reconstruct", $("views"), async (signal) => {
    const params = reconstructParams();
    const { answer } = await ask("reconstruct", { params, picture: state.picture.file, signal });
    const images = await Promise.all(Object.keys(VIEWS).map((name) => loadImage(answer.pictures?.[name])));
    signal.throwIfAborted();
    showViews(answer, images);
  }, reconstructAgain);
  if (done === false) clearViews();
}

/** Fills in the patches that the controls mask now. */
function reconstructAgain() {
  clearError();
  reconstruct();
}

export function clearViews() {
  $("views").replaceChildren();
  $("views").removeAttribute("aria-busy");
  $("views-note").textContent = "";
}

function showViews({ mask, loss, seed: used }, images) {
  $("views").replaceChildren(...Object.values(VIEWS).map((view, at) => figure(view, images[at])));
  const masked = mask.filter(Boolean).length;
  $("views-note").textContent =
    `${masked} of ${mask.length} patches are masked. Their loss is ${brief(loss)}. Seed ${used}.`;
}

/** A picture with its name. Small ones keep square pixels. */
function figure({ label, note }, image) {
  const element = make("figure");
  image.alt = note;
  image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= 96);
  element.append(image, make("figcaption", "", label));
  return element;
}

export function watchReconstruction() {
  $("mask-ratio").addEventListener("input", nameRatio);
  for (const name of ["mask-ratio", "mask-kind"]) $(name).addEventListener("change", reconstructAgain);
  $("other-mask").addEventListener("click", () => {
    seed = Math.floor(Math.random() * 2 ** 31);
    reconstructAgain();
  });
  nameRatio();
}
