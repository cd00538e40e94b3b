// The picture: chosen, dropped, pasted, drawn or photographed.

import { $, fail } from "./page.js";
import { state } from "./state.js";

/** What follows a new picture. */
let taken = () => {};

/** Takes a picture. `made` is true for one that is in no folder of the user's. */
function takePicture(file, { made = false, note = "" } = {}) {
  if (!/^(image\/.*|application\/octet-stream|)$/.test(file.type)) {
    fail(new Error(`${file.name} is not a picture.`));
    return;
  }
  state.picture = { file, note };
  showPreview(file, made);
  taken();
}

function showPreview(file, made) {
  const preview = $("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  $("file-name").textContent = file.name;
  $("save").hidden = !made;
  $("save").href = preview.src;
  $("save").download = file.name;
}

/** Takes the first of several files. */
function takeFiles(files) {
  if (!files?.length) return;
  takePicture(files[0], { note: files.length > 1 ? `Only the first of ${files.length} files is taken. ` : "" });
}

export function watchPictures(then) {
  taken = then;
  $("file").addEventListener("change", ({ target }) => {
    takeFiles([...target.files]);
    // So that the same file can be chosen again.
    target.value = "";
  });
  $("preview").addEventListener("load", ({ target }) => {
    target.classList.toggle("small", Math.max(target.naturalWidth, target.naturalHeight) <= 96);
  });
  // A picture that the browser cannot show is sent all the same: the server reads more kinds.
  $("preview").addEventListener("error", ({ target }) => { target.hidden = true; });
  document.addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) takePicture(file, { made: true });
  });
  const holdsFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
  // Files may be dropped anywhere: beside the zone the browser would leave the page.
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) $("drop").classList.remove("over");
  });
  addEventListener("drop", (event) => {
    $("drop").classList.remove("over");
    if (!holdsFiles(event)) return;
    event.preventDefault();
    takeFiles(event.dataTransfer.files);
  });
}

/** Takes what is on a canvas. */
export function takeCanvas(canvas, name, type) {
  canvas.toBlob((blob) => {
    if (blob) takePicture(new File([blob], name, { type }), { made: true });
    else fail(new Error("The browser cannot make a picture of this."));
  }, type, 0.95);
}
