//! Names that operating systems and tools leave in folders and archives.

/// Folders and files of systems. Names that begin with a dot are handled separately.
const NAMES: [&str; 14] = [
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Icon\r",
    "PaxHeaders",
];

/// Whether a file or folder of this name is hidden (`.git`, `._a.jpg`) or belongs to a system or tool (`__MACOSX`,
/// `@eaDir`). It is then not part of a dataset. Case does not matter.
pub fn is_foreign(name: &str) -> bool {
    let hidden = name.starts_with('.') && !matches!(name, "." | "..");
    hidden || name.starts_with("PaxHeaders.") || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}
