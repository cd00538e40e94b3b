// What the page knows: the models, the picture, and the kind of answers.

export const state = {
  models: [],
  model: undefined,
  /** The picture: its file, and a note about it. */
  picture: undefined,
  /** Whether the model answers with numbers instead of classes. */
  regression: false,
};

/** Whether the model answers requests of this kind. */
export function can(what) {
  return state.model?.can?.includes(what) ?? false;
}
