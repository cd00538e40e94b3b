//! Thousands of damaged requests, the same in every run: each gets an answer or an error that blames the client, and the
//! server goes on.

use axum::body::Body;
use axum::http::{Request, header};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::*;

/// Numbers that look random and are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        (self.throw() % end.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A request before it is damaged.
#[derive(Clone)]
struct Sent {
    address: String,
    kind: String,
    /// The length of the JSON document before binary tensors.
    length: Option<String>,
    body: Vec<u8>,
}

impl Sent {
    fn new(address: &str, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { address: address.into(), kind: kind.into(), length: None, body: body.into() }
    }

    fn json(address: &str, body: &Value) -> Self {
        Self::new(address, "application/json", body.to_string())
    }

    /// A document with bytes behind it.
    fn binary(document: &Value, behind: &[u8]) -> Self {
        let document = document.to_string();
        let length = Some(document.len().to_string());
        let body = [document.as_bytes(), behind].concat();
        Self { length, ..Self::new("/v2/models/demo/infer", "application/octet-stream", body) }
    }

    /// The request; `None` if no client can send it.
    fn request(self) -> Option<Request<Body>> {
        let request = Request::post(self.address).header(header::CONTENT_TYPE, self.kind);
        let request = match self.length {
            Some(length) => request.header("inference-header-content-length", length),
            None => request,
        };
        request.body(self.body.into()).ok()
    }
}

/// Good requests of every form.
fn good() -> Vec<Sent> {
    let image = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": [base64(1)] });
    let pixels = json!({ "name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": vec![0.5; 3072] });
    let behind = |name: &str, datatype: &str, shape: Value, size: usize| {
        json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": size } }],
            "outputs": [{ "name": "embedding", "parameters": { "binary_data": true } }] })
    };
    let file = png(&picture(2));
    let element = [&(file.len() as u32).to_le_bytes()[..], &file].concat();
    let (kind, form) = form(&[png(&picture(3)), png(&picture(4))]);
    vec![
        Sent::new("/predict?top_k=3&model=demo", "image/png", file),
        Sent::new("/predict", &kind, form.clone()),
        Sent::new("/embed?normalize=true", &kind, form.clone()),
        Sent::new("/predictions/demo", &kind, form),
        Sent::new("/explain?method=attention&row=1&column=2", "image/png", png(&picture(5))),
        Sent::new("/explain?method=relevance&target=1", "application/octet-stream", png(&picture(5))),
        Sent::json("/predict", &json!({ "inputs": [base64(1), base64(2)], "parameters": { "top_k": 2 } })),
        Sent::json("/explain", &json!({ "inputs": base64(1), "parameters": { "method": "rollout" } })),
        Sent::json("/reconstruct", &json!({ "inputs": base64(1) })),
        Sent::json(
            "/v1/embeddings",
            &json!({ "input": base64(1), "model": "demo", "encoding_format": "base64" }),
        ),
        Sent::json("/embed", &json!({ "inputs": [base64(1)], "normalize": false, "truncate": true })),
        Sent::json("/predictions/demo", &json!({ "data": base64(1) })),
        Sent::json(
            "/v2/models/demo/infer",
            &json!({ "id": "7", "inputs": [image], "outputs": [{ "name": "logits" }] }),
        ),
        Sent::json("/v2/models/demo/versions/1/infer", &json!({ "inputs": [pixels] })),
        Sent::binary(&behind("image", "BYTES", json!([1]), element.len()), &element),
        Sent::binary(&behind("pixel_values", "FP32", json!([1, 3, 32, 32]), 12_288), &[0; 12_288]),
    ]
}

/// Bytes that parsers like to stumble over.
const WORDS: [&str; 16] = [
    "\"",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\u{0}",
    "\r\n",
    "--",
    "%ff",
    "\u{feff}",
];

/// Damages bytes at a place or two.
fn damage(bytes: &mut Vec<u8>, others: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        let end = at + dice.below(bytes.len() + 1 - at).min(200);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = dice.throw() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let from = dice.below(others.len());
                bytes.splice(at..end, others[from..others.len().min(from + 100)].iter().copied());
            }
            _ => drop(bytes.splice(at..at, dice.pick(&WORDS).repeat(1 + dice.below(40)).into_bytes())),
        }
    }
}

/// A text with damage that leaves it one.
fn damaged_text(text: &str, dice: &mut Dice) -> String {
    let mut bytes = text.as_bytes().to_vec();
    damage(&mut bytes, b"&model=&top_k=99999999999999999999&method=x&row=-1", dice);
    bytes.retain(|byte| (b'!'..=b'~').contains(byte));
    String::from_utf8(bytes).unwrap()
}

/// A good request with damage, mostly of its body.
fn damaged(good: &[Sent], dice: &mut Dice) -> Sent {
    let mut sent = dice.pick(good).clone();
    let others = &dice.pick(good).body;
    if dice.below(8) > 0 {
        damage(&mut sent.body, others, dice);
    }
    match dice.below(12) {
        0 => sent.address = format!("/{}", damaged_text(&sent.address[1..], dice)),
        1 => sent.kind = damaged_text(&sent.kind, dice),
        2 => sent.kind.clone_from(&dice.pick(good).kind),
        3 => sent.length = Some(dice.below(sent.body.len() + 3).to_string()),
        4 => sent.length = Some(damaged_text("123", dice)),
        _ => {}
    }
    sent
}

async fn check(response: Response, told: &str) -> bool {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let is_good = status == 200;
    assert!(is_good || status.is_client_error(), "{status} {body:?} for {told}");
    if !is_good {
        let error: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{body:?} for {told}"));
        assert!(error["error"].is_string(), "{error} for {told}");
    }
    is_good
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_requests_get_a_4xx() {
    let (good, router, mut dice) = (good(), usual(), Dice(7));
    for sent in &good {
        let is_refused = sent.address == "/reconstruct";
        let answer = router.clone().oneshot(sent.clone().request().unwrap()).await.unwrap();
        assert_eq!(check(answer, &sent.address).await, !is_refused, "{}", sent.address);
    }
    // Builds without optimisation are many times slower.
    let count = if cfg!(debug_assertions) { 300 } else { 4000 };
    let mut refused = 0;
    for number in 0..count {
        let sent = damaged(&good, &mut dice);
        let told = format!(
            "request {number}: {} {} {:?}",
            sent.address,
            sent.kind,
            String::from_utf8_lossy(&sent.body)
        );
        let Some(request) = sent.request() else { continue };
        let answer = router.clone().oneshot(request).await.unwrap();
        refused += usize::from(!check(answer, &told).await);
    }
    assert!(refused > count / 2, "{refused} of {count}");
    post_picture(&router, "/predict", 1).await.good();
}
