//! File formats of class names and their numbers.

use serde_json::{Map, Value};

/// Names in the order of their numbers, and aliases.
type Names = (Vec<String>, Vec<(String, usize)>);

/// Parses text that is not empty. `is_table`: the file name says that it is a table. Other files may be tables too.
pub(super) fn parse(text: &str, is_table: bool) -> Result<Names, String> {
    if text.trim_start().starts_with(['{', '[']) {
        let value = serde_json::from_str(text).map_err(|error| format!("JSON: {error}"))?;
        return of_json(&value);
    }
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim).collect();
    if let Some(at) = lines.iter().position(|line| line.is_empty()) {
        return Err(format!("line {} is blank: names after it would shift", at + 1));
    }
    for delimiter in ['\t', ',', ';', ' '] {
        if let Some(names) = of_fields(&lines, delimiter, is_table)? {
            return Ok(names);
        }
    }
    let is_header =
        is_table && ["name", "class", "label", "class_name"].iter().any(|h| lines[0].eq_ignore_ascii_case(h));
    let names: Vec<&str> =
        lines[usize::from(is_header)..].iter().map(|line| line.trim_matches('"')).collect();
    if is_table && names.iter().any(|line| line.contains([',', '\t', ';'])) {
        return Err("a table without a column of numbers or WordNet ids".into());
    }
    Ok((names.into_iter().map(String::from).collect(), Vec::new()))
}

/// Lines as rows of names and numbers, or of WordNet ids and names; `None` if they are not.
fn of_fields(lines: &[&str], delimiter: char, is_table: bool) -> Result<Option<Names>, String> {
    let rows: Vec<Vec<String>> = lines.iter().map(|line| fields(line, delimiter)).collect();
    let width = rows[0].len();
    if width < 2 || rows.iter().any(|row| row.len() != width) {
        return Ok(None);
    }
    for body in [&rows[..], &rows[1..]] {
        if body.is_empty() {
            continue;
        }
        let wnids = (0..width).find(|&at| body.iter().all(|row| is_wnid(&row[at])));
        // With blanks as separators, a number after a blank is part of the name: `name 0`.
        let columns = if delimiter == ' ' { 1 } else { width };
        let numbers = (0..columns).find(|&at| body.iter().all(|row| row[at].parse::<usize>().is_ok()));
        let named = (0..width).rev().find(|&at| Some(at) != numbers && Some(at) != wnids).or(wnids);
        let Some(named) = named else { continue };
        let mut found: Vec<(usize, &Vec<String>)> = match (numbers, wnids) {
            (Some(at), _) => body.iter().map(|row| (row[at].parse().unwrap_or(usize::MAX), row)).collect(),
            (None, Some(_)) => body.iter().enumerate().collect(),
            (None, None) => continue,
        };
        found.sort_by_key(|(number, _)| *number);
        if !found.iter().map(|(number, _)| *number).eq(0..found.len()) {
            // Names may end in numbers; numbers in a table are class numbers.
            match is_table && delimiter != ' ' {
                true => {
                    return Err(format!(
                        "the numbers of {} classes are not 0 to {}",
                        body.len(),
                        body.len() - 1
                    ));
                }
                false => continue,
            }
        }
        let aliases = wnids.filter(|&at| at != named);
        let aliases = aliases
            .into_iter()
            .flat_map(|at| found.iter().map(move |(number, row)| (row[at].clone(), *number)));
        return Ok(Some((found.iter().map(|(_, row)| row[named].clone()).collect(), aliases.collect())));
    }
    Ok(None)
}

fn fields(line: &str, delimiter: char) -> Vec<String> {
    if delimiter == ' ' {
        // `0 cat`, `n01440764 tench, Tinca tinca`
        let Some((first, rest)) = line.split_once(' ') else { return vec![line.into()] };
        return vec![first.into(), rest.trim().into()];
    }
    let mut reader = csv::ReaderBuilder::new();
    reader.has_headers(false).delimiter(delimiter as u8).trim(csv::Trim::All);
    let record = reader.from_reader(line.as_bytes()).records().next().and_then(Result::ok);
    record.map_or_else(Vec::new, |record| record.iter().map(String::from).collect())
}

fn is_wnid(text: &str) -> bool {
    text.len() == 9 && text.starts_with('n') && text[1..].bytes().all(|byte| byte.is_ascii_digit())
}

fn of_json(value: &Value) -> Result<Names, String> {
    match value {
        Value::Array(list) => {
            let names = list
                .iter()
                .enumerate()
                .map(|(at, name)| text(name).ok_or(format!("JSON: entry {at} is not a name")));
            Ok((names.collect::<Result<_, _>>()?, Vec::new()))
        }
        Value::Object(map) => match map.get("id2label").or_else(|| map.get("label2id")) {
            Some(inner) => of_json(inner),
            None => of_object(map),
        },
        _ => Err("JSON: want a list of names, or an object of names and numbers".into()),
    }
}

/// `{name: number}`, `{number: name}`, or Keras's `{number: [WordNet id, name]}`.
fn of_object(map: &Map<String, Value>) -> Result<Names, String> {
    let mut found = Vec::new();
    let mut aliases = Vec::new();
    for (key, value) in map {
        let number =
            |text: &str| text.parse::<usize>().map_err(|_| format!("JSON: `{key}` has no class number"));
        match value {
            Value::Number(n) => found.push((number(&n.to_string())?, key.clone())),
            Value::Array(pair) if pair.len() == 2 => {
                let words = pair.iter().filter_map(text).collect::<Vec<_>>();
                let [wnid, name] =
                    words.try_into().map_err(|_| format!("JSON: `{key}` is not a pair of names"))?;
                aliases.push((wnid, number(key)?));
                found.push((number(key)?, name));
            }
            value => found.push((number(key)?, text(value).ok_or(format!("JSON: `{key}` is not a name"))?)),
        }
    }
    found.sort();
    if found.is_empty() || !found.iter().map(|(number, _)| *number).eq(0..found.len()) {
        return Err(format!(
            "JSON: the numbers of {} classes are not 0 to {}",
            found.len(),
            found.len().saturating_sub(1)
        ));
    }
    // Keras's names repeat; in that case the ids are the names.
    let names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
    Ok((names, aliases))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(|text| text.trim().to_string())
}
