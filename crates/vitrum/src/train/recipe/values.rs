//! Values that a recipe writes as text: image sizes, intervals, lengths of time.

use serde::{Deserialize, Serialize};

/// Height and width in pixels: `224`, `[224, 160]` or `"224x160"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ImgSizeRepr", into = "ImgSizeRepr")]
pub struct ImgSize(pub [usize; 2]);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ImgSizeRepr {
    Side(usize),
    Sides([usize; 2]),
    Text(String),
}

impl TryFrom<ImgSizeRepr> for ImgSize {
    type Error = String;

    fn try_from(repr: ImgSizeRepr) -> Result<Self, String> {
        match repr {
            ImgSizeRepr::Side(side) => Ok(Self([side, side])),
            ImgSizeRepr::Sides(sides) => Ok(Self(sides)),
            ImgSizeRepr::Text(text) => text.parse(),
        }
    }
}

impl From<ImgSize> for ImgSizeRepr {
    fn from(ImgSize([h, w]): ImgSize) -> Self {
        if h == w { Self::Side(h) } else { Self::Sides([h, w]) }
    }
}

impl std::str::FromStr for ImgSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no image size: want N or HxW");
        let side = |text: &str| text.parse().map_err(|_| wrong());
        match text.split_once('x') {
            Some((h, w)) => Ok(Self([side(h)?, side(w)?])),
            None => side(text).map(|side| Self([side, side])),
        }
    }
}

/// How often something happens: `2epochs`, `500steps`, `10min`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// After this many epochs.
    Epochs(u64),
    /// After this many updates.
    Steps(u64),
    /// After this time.
    Time(Span),
}

impl std::str::FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no interval: want 1epoch, 500steps or 10min");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let whole = || if number >= 1.0 && number.fract() == 0.0 { Ok(number as u64) } else { Err(wrong()) };
        match unit {
            "epoch" | "epochs" => Ok(Self::Epochs(whole()?)),
            "step" | "steps" | "update" | "updates" => Ok(Self::Steps(whole()?)),
            _ => text.parse().map(Self::Time).map_err(|_| wrong()),
        }
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        match every {
            Every::Epochs(1) => "1epoch".into(),
            Every::Epochs(n) => format!("{n}epochs"),
            Every::Steps(n) => format!("{n}steps"),
            Every::Time(span) => span.into(),
        }
    }
}

/// A length of time: `90s`, `10min`, `3.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// In seconds.
    pub seconds: f64,
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no length of time: want 90s, 10min or 3.5h");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let scale = match unit {
            "s" | "sec" | "seconds" => 1.0,
            "m" | "min" | "minutes" => 60.0,
            "h" | "hours" => 3600.0,
            "d" | "days" => 86400.0,
            _ => return Err(wrong()),
        };
        Ok(Self { seconds: number * scale })
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(Span { seconds }: Span) -> Self {
        match seconds {
            s if s >= 3600.0 && (s / 36.0).fract() == 0.0 => format!("{}h", s / 3600.0),
            s if s >= 60.0 && (s / 0.6).fract() == 0.0 => format!("{}min", s / 60.0),
            s => format!("{s}s"),
        }
    }
}

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(end);
    let number = number.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)?;
    Some((number, unit.trim()))
}
