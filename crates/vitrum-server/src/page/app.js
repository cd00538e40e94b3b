// The page of vitrum's server: the classes of a picture, what the model looks at, and masked patches filled in. It asks
// only the server that it came from, and sets no inline style in markup, because the Content-Security-Policy forbids
// both.

import { watchCamera } from "./camera.js";
import { clearClasses, predict, predictParams } from "./classes.js";
import { copy, curl } from "./commands.js";
import { showExamples } from "./examples.js";
import { clearFigure, explain, explainParams, offerMethods, watchExplanation } from "./explanation.js";
import { watchKey } from "./key.js";
import { loadModels, watchModels } from "./models.js";
import { $, clearError, say } from "./page.js";
import { watchPictures } from "./picture.js";
import { clearViews, offerMasks, reconstruct, reconstructParams, watchReconstruction } from "./reconstruction.js";
import { stop } from "./requests.js";
import { can, state } from "./state.js";

/** The number of the picture or model that the page asks about. */
let asked = 0;

/** Asks for all that the model can say of the picture. The old answers stay until then, but pale. */
async function answer() {
  asked += 1;
  const mine = asked;
  clearError();
  for (const kind of ["predict", "explain", "reconstruct"]) stop(kind);
  say(state.picture.note);
  for (const region of ["figure", "views"]) $(region).setAttribute("aria-busy", "true");
  const done = can("predict") ? await predict(answer) : true;
  if (done === false) clearAnswers();
  if (!done) return;
  await explain();
  // A new picture or model has its own answers.
  if (mine === asked) await reconstruct();
}

/** Removes all answers: they belong to another picture. */
function clearAnswers() {
  clearClasses();
  clearFigure();
  clearViews();
}

function showCards() {
  $("classes").hidden = !can("predict");
  $("explanation").hidden = !can("explain") || !state.picture;
  $("reconstruction").hidden = !can("reconstruct") || !state.picture;
}

function withModel() {
  offerMethods();
  offerMasks();
  showCards();
  if (state.picture) answer();
}

function withPicture() {
  showCards();
  if (state.model) answer();
  else loadModels();
}

/** Copies a request for a picture as a curl command. */
function copyPicture(path, params, file) {
  copy(curl(path, params, ["-H 'Accept: image/png'", `-o ${file}`]));
}

function watchCommands() {
  $("copy-predict").addEventListener("click", () => copy(curl("predict", predictParams())));
  $("copy-explain").addEventListener("click", () => {
    copyPicture("explain", explainParams(), "explanation.png");
  });
  $("copy-reconstruct").addEventListener("click", () => {
    copyPicture("reconstruct", reconstructParams(), "reconstruction.png");
  });
}

watchModels(withModel);
watchPictures(withPicture);
watchCamera();
showExamples();
watchExplanation();
watchReconstruction();
watchCommands();
watchKey(loadModels);
loadModels();
