// The models of the server, and the one that answers.

import { $, clearError, count } from "./page.js";
import { ask, run } from "./requests.js";
import { state } from "./state.js";

/** What follows the choice of a model. */
let chosen = () => {};

export async function loadModels() {
  clearError();
  await run("models", $("model-facts"), async (signal) => {
    const { answer } = await ask("v1/models", { signal });
    if (!answer.models?.length) throw new Error("The server has no models.");
    state.models = answer.models;
    $("model").replaceChildren(...answer.models.map(({ name }) => new Option(name, name)));
    $("model-choice").hidden = answer.models.length < 2;
    const kept = answer.models.find(({ name }) => name === state.model?.name);
    chooseModel(kept ?? answer.models.find((model) => model.default) ?? answer.models[0]);
  }, loadModels);
}

function chooseModel(model) {
  state.model = model;
  $("model").value = model.name;
  const facts = state.models.length === 1 ? [model.name] : [];
  facts.push(model.family, `${count(model.params)} parameters`, `input ${model.input.join(" × ")}`);
  if (model.num_classes) facts.push(`${model.num_classes} classes`);
  $("model-facts").textContent = facts.join(" · ");
  chosen();
}

export function watchModels(then) {
  chosen = then;
  $("model").addEventListener("change", ({ target }) => {
    chooseModel(state.models.find(({ name }) => name === target.value));
  });
}
