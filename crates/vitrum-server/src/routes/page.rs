//! The page for a browser. Its files are in the program, and it asks no other server.

use axum::extract::Path;
use axum::http::header;
use axum::response::IntoResponse;

use crate::error::ApiError;

/// What the page may load: its own files, and pictures and films that the user gives it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for the description of the interface, whose page sets styles by itself.
pub const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The files of the page: name, kind, text.
const FILES: [(&str, &str, &str); 15] = [
    ("style.css", STYLE, include_str!("../page/style.css")),
    ("app.js", SCRIPT, include_str!("../page/app.js")),
    ("camera.js", SCRIPT, include_str!("../page/camera.js")),
    ("classes.js", SCRIPT, include_str!("../page/classes.js")),
    ("commands.js", SCRIPT, include_str!("../page/commands.js")),
    ("examples.js", SCRIPT, include_str!("../page/examples.js")),
    ("explanation.js", SCRIPT, include_str!("../page/explanation.js")),
    ("heat.js", SCRIPT, include_str!("../page/heat.js")),
    ("key.js", SCRIPT, include_str!("../page/key.js")),
    ("models.js", SCRIPT, include_str!("../page/models.js")),
    ("page.js", SCRIPT, include_str!("../page/page.js")),
    ("picture.js", SCRIPT, include_str!("../page/picture.js")),
    ("reconstruction.js", SCRIPT, include_str!("../page/reconstruction.js")),
    ("requests.js", SCRIPT, include_str!("../page/requests.js")),
    ("state.js", SCRIPT, include_str!("../page/state.js")),
];

/// `GET /`.
pub async fn index() -> impl IntoResponse {
    answer(HTML, include_str!("../page/index.html"))
}

/// `GET /page/{file}`.
///
/// # Errors
/// [`ApiError::UnknownRoute`].
pub async fn file(Path(asked): Path<String>) -> Result<impl IntoResponse, ApiError> {
    let found = FILES.iter().find(|(name, ..)| *name == asked);
    let (_, kind, text) = found.ok_or_else(|| ApiError::UnknownRoute(format!("/page/{asked}")))?;
    Ok(answer(kind, text))
}

fn answer(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text)
}
