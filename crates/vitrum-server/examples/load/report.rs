//! What was seen, and whether it is what was claimed.

use serde_json::{Map, Value, json};

/// What a run has seen.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rows: Map<String, Value>,
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    text: String,
    found: String,
    holds: bool,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, rows: Map::new(), claims: Vec::new() }
    }

    /// Something that was measured.
    pub fn row(&mut self, what: impl Into<String>, value: impl Into<Value>) {
        self.rows.insert(what.into(), value.into());
    }

    /// A number with two digits behind the point.
    pub fn number(&mut self, what: impl Into<String>, value: f64) {
        self.row(what, (100.0 * value).round() / 100.0);
    }

    /// Something that must hold, and what was found.
    pub fn claim(&mut self, holds: bool, text: impl Into<String>, found: impl ToString) {
        self.claims.push(Claim { text: text.into(), found: found.to_string(), holds });
    }

    /// Whether all claims hold.
    pub fn holds(&self) -> bool {
        self.claims.iter().all(|claim| claim.holds)
    }

    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
            return;
        }
        println!("{}", self.name);
        let width = self.rows.keys().map(|what| what.chars().count()).max().unwrap_or_default();
        for (what, value) in &self.rows {
            println!("  {what:<width$}  {}", text(value));
        }
        for Claim { text, found, holds } in &self.claims {
            println!("{}  {text}: {found}", if *holds { "PASS" } else { "FAIL" });
        }
    }

    fn json(&self) -> Value {
        let claim = |claim: &Claim| json!({"claim": claim.text, "found": claim.found, "holds": claim.holds});
        let claims: Vec<Value> = self.claims.iter().map(claim).collect();
        json!({"name": self.name, "rows": self.rows, "claims": claims, "holds": self.holds()})
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => {
            let parts: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}: {}", text(value))).collect();
            if parts.is_empty() { "none".into() } else { parts.join(", ") }
        }
        other => other.to_string(),
    }
}

/// The value below which this share of the values lies; 0 of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

/// Tells how far the run is.
pub fn progress(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
