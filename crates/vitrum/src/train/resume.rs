//! What a run needs to go on, kept so that nothing is ever half written.
