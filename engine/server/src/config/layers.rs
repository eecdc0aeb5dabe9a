//! From file, environment and flags to one value per key, each with the place it came from.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, io};

use toml_edit::{Document, Item, TableLike};

use super::keys::{self, KEYS, Key, Kind};

/// Where values come from, weakest first: the file, the environment, flags.
#[derive(Debug, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<ConfigFile>,
    /// Variables: the name, the text. Those of others are no mistakes.
    pub environment: Vec<(String, String)>,
    /// What to call it, the key, the text.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration file as it was found.
#[derive(Debug)]
pub struct ConfigFile {
    /// What to call it.
    pub name: String,
    /// What is in it, or why it can't be read.
    pub contents: io::Result<Vec<u8>>,
}

impl ConfigFile {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Self {
        Self { name: path.display().to_string(), contents: std::fs::read(path) }
    }
}

/// Something wrong, with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file and its line, the variable, the flag or the profile that set it, or `default`.
    pub place: String,
    /// The key, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A value that fits its key.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Integer(u64),
    Flag(bool),
    Text(String),
    List(Vec<String>),
}

/// What was said of one namespace.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where it is named first.
    pub(crate) place: String,
    values: BTreeMap<&'static str, (Value, String)>,
}

impl Options {
    /// A value and where it was set, if it was.
    pub(crate) fn find(&self, name: &'static str) -> Option<&(Value, String)> {
        debug_assert!(keys::of_namespace(name).is_some(), "the code names only keys that exist");
        self.values.get(name)
    }

    /// Where the first of these keys was set; the namespace's place if none was.
    pub(crate) fn place_of(&self, names: &[&'static str]) -> &str {
        names.iter().find_map(|name| self.values.get(name)).map_or(&self.place, |(_, place)| place)
    }
}

const OWN_PREFIX: &str = "CORECAST_";

/// The place of what nobody set.
const DEFAULT: &str = "default";

/// All values, and all problems found on the way.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    values: BTreeMap<&'static str, (Value, String)>,
    /// By namespace and key; and where each namespace is named first.
    namespaces: BTreeMap<String, Options>,
    pub(crate) problems: Vec<Problem>,
}

impl Layers {
    /// Reads all sources.
    pub(crate) fn load(sources: &Sources) -> Self {
        let mut layers = Self::default();
        if let Some(file) = &sources.file {
            match &file.contents {
                Ok(bytes) => layers.bytes(&file.name, bytes),
                Err(error) => layers.problem(&file.name, format!("can't be read: {error}")),
            }
        }
        // Of two names for one key the hub's own wins, whatever their order in the environment.
        let (own, others) =
            sources.environment.iter().partition::<Vec<_>, _>(|(name, _)| name.starts_with(OWN_PREFIX));
        for (name, text) in others.into_iter().chain(own) {
            layers.variable(name, text);
        }
        for (flag, name, text) in &sources.flags {
            layers.text(flag, name, text);
        }
        layers.profile();
        layers
    }

    fn problem(&mut self, place: &str, what: String) {
        self.problems.push(Problem { place: place.to_owned(), what });
    }

    /// The defaults of the profile, for keys that nobody set.
    fn profile(&mut self) {
        let (profile, _) = self.text_of("profile");
        for (name, text) in keys::profile(&profile) {
            let place = format!("profile {profile}");
            if !self.values.contains_key(name) {
                self.text(&place, name, text);
            }
        }
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.file(path, text),
            Err(error) => {
                let before = &bytes[..error.valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                self.problem(
                    &format!("{path}:{line}"),
                    "this is not UTF-8, as the whole file must be".to_owned(),
                );
            }
        }
    }

    fn file(&mut self, path: &str, text: &str) {
        let line = |at: Option<std::ops::Range<usize>>| {
            let at = at.map_or(0, |range| range.start.min(text.len()));
            format!("{path}:{}", text[..at].matches('\n').count() + 1)
        };
        match Document::parse(text) {
            Ok(document) => self.table("", document.as_table(), &line),
            Err(error) => self.problem(&line(error.span()), error.message().trim().replace('\n', ", ")),
        }
    }

    fn table(
        &mut self,
        prefix: &str,
        table: &dyn TableLike,
        line: &dyn Fn(Option<std::ops::Range<usize>>) -> String,
    ) {
        for (name, item) in table.iter() {
            let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            let span = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
            let place = line(span);
            if let Some(inner) = item.as_table_like() {
                if let Some(name) = full.strip_prefix(NAMESPACES) {
                    // A table without a key is a namespace too, all by default.
                    self.namespace(name, &place);
                    self.table(&full, inner, line);
                } else if is_section(&full) {
                    self.table(&full, inner, line);
                } else {
                    self.problem(&place, unknown(&full));
                }
            } else {
                self.item(&place, &full, item);
            }
        }
    }

    /// The options of a namespace, named here if nowhere before.
    fn namespace(&mut self, name: &str, place: &str) -> &mut Options {
        self.namespaces
            .entry(name.to_owned())
            .or_insert_with(|| Options { place: place.to_owned(), values: BTreeMap::new() })
    }

    /// All namespaces that somebody named.
    pub(crate) fn take_namespaces(&mut self) -> BTreeMap<String, Options> {
        std::mem::take(&mut self.namespaces)
    }

    fn item(&mut self, place: &str, name: &str, item: &Item) {
        let Some(key) = find(name) else { return self.problem(place, unknown(name)) };
        let value = match key.kind {
            Kind::Integer(..) => item.as_integer().and_then(|it| u64::try_from(it).ok()).map(Value::Integer),
            Kind::Flag => item.as_bool().map(Value::Flag),
            Kind::Text | Kind::Word(_) => item.as_str().map(|it| Value::Text(it.to_owned())),
            Kind::List => item.as_array().and_then(|array| {
                let texts = array.iter().map(|it| it.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>().map(Value::List)
            }),
        };
        self.check(place, name, key, value);
    }

    /// `CORECAST_SECTION__KEY`, and the names that other deployments of such hubs use.
    fn variable(&mut self, name: &str, text: &str) {
        let place = format!("environment variable {name}");
        match name {
            "WS_ENDPOINT" => {
                let prefix = text.split("/ws").next().unwrap_or_default().trim_end_matches('/');
                self.text(&place, "http.prefix", prefix);
            }
            "WS_MAX_CONNECTIONS" => self.text(&place, "limits.connections", text),
            "WS_AUTH_REQUIRED" => match text {
                "false" | "0" | "no" => {}
                "true" | "1" | "yes" => {
                    let what = "authentication is not part of this version: unset it, or run behind a proxy that authenticates";
                    self.problem(&place, what.to_owned());
                }
                _ => self.problem(&place, format!("must be true or false, not `{text}`")),
            },
            _ => {
                if let Some(rest) = name.strip_prefix(OWN_PREFIX)
                    && !is_service_link(rest)
                {
                    self.text(&place, &rest.to_lowercase().replace("__", "."), text);
                }
            }
        }
    }

    fn text(&mut self, place: &str, name: &str, text: &str) {
        let Some(key) = find(name) else { return self.problem(place, unknown(name)) };
        let value = match key.kind {
            Kind::Integer(..) => text.replace('_', "").parse().ok().map(Value::Integer),
            Kind::Flag => text.parse().ok().map(Value::Flag),
            Kind::Text | Kind::Word(_) => Some(Value::Text(text.to_owned())),
            Kind::List => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Some(Value::List(parts.map(str::to_owned).collect()))
            }
        };
        self.check(place, name, key, value);
    }

    fn check(&mut self, place: &str, name: &str, key: &'static Key, value: Option<Value>) {
        let right = match key.kind {
            Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Flag => "true or false".to_owned(),
            Kind::Text => "a text".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::List => "a list of texts".to_owned(),
        };
        let fits = match (&value, key.kind) {
            (Some(Value::Integer(it)), Kind::Integer(min, max)) => (min..=max).contains(it),
            (Some(Value::Text(it)), Kind::Word(words)) => words.contains(&it.as_str()),
            (value, _) => value.is_some(),
        };
        match value {
            Some(value) if fits => {
                let values = match namespace_of(name) {
                    Some((namespace, _)) => &mut self.namespace(namespace, place).values,
                    None => &mut self.values,
                };
                values.insert(key.name, (value, place.to_owned()));
            }
            _ => self.problem(place, format!("`{name}` must be {right} ({})", key.about)),
        }
    }

    fn of(&self, name: &'static str) -> (Value, String) {
        if let Some((value, place)) = self.values.get(name) {
            return (value.clone(), place.clone());
        }
        let key = keys::find(name).expect("the code names only keys that exist");
        let value = match key.kind {
            Kind::Integer(..) => Value::Integer(key.default.parse().expect("defaults fit their keys")),
            Kind::Flag => Value::Flag(key.default == "true"),
            Kind::Text | Kind::Word(_) => Value::Text(key.default.to_owned()),
            Kind::List => Value::List(Vec::new()),
        };
        (value, DEFAULT.to_owned())
    }

    /// Where the first of these keys was set that was set at all: for what is wrong with them together.
    pub(crate) fn place_of(&self, names: &[&'static str]) -> String {
        let mut set = names.iter().filter_map(|name| self.values.get(name));
        set.next().map_or_else(|| DEFAULT.to_owned(), |(_, place)| place.clone())
    }

    /// Whether anybody chose a value.
    pub(crate) fn is_set(&self, name: &'static str) -> bool {
        self.values.contains_key(name)
    }

    /// A number, and where it was set.
    pub(crate) fn integer_of(&self, name: &'static str) -> (u64, String) {
        match self.of(name) {
            (Value::Integer(it), place) => (it, place),
            _ => unreachable!("the key is a number"),
        }
    }

    /// A flag, and where it was set.
    pub(crate) fn flag_of(&self, name: &'static str) -> (bool, String) {
        match self.of(name) {
            (Value::Flag(it), place) => (it, place),
            _ => unreachable!("the key is a flag"),
        }
    }

    /// A text, and where it was set.
    pub(crate) fn text_of(&self, name: &'static str) -> (String, String) {
        match self.of(name) {
            (Value::Text(it), place) => (it, place),
            _ => unreachable!("the key is a text"),
        }
    }

    /// A list.
    pub(crate) fn list_of(&self, name: &'static str) -> Vec<String> {
        match self.of(name).0 {
            Value::List(it) => it,
            _ => unreachable!("the key is a list"),
        }
    }
}

/// What Kubernetes puts into the environment of every pod beside a service named `corecast`.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

/// What precedes a namespace's name.
const NAMESPACES: &str = "namespaces.";

/// The namespace and its key that `namespaces.chat.mode` names.
fn namespace_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(NAMESPACES)?.rsplit_once('.')
}

fn is_section(name: &str) -> bool {
    let section = format!("{name}.");
    section == NAMESPACES || KEYS.iter().any(|key| key.name.starts_with(&section))
}

fn find(name: &str) -> Option<&'static Key> {
    match namespace_of(name) {
        Some((_, key)) => keys::of_namespace(key),
        None => keys::find(name),
    }
}

fn unknown(name: &str) -> String {
    if let Some((_, key)) = namespace_of(name) {
        let known = keys::namespace_names().collect::<Vec<_>>().join(", ");
        return format!("there is no key `{key}` of a namespace, but {known}");
    }
    if name.starts_with(NAMESPACES) {
        return format!("`{name}` must be a table, as [namespaces.chat]");
    }
    match keys::nearest(name) {
        Some(nearest) => format!("there is no key `{name}`; did you mean `{nearest}`?"),
        None => format!("there is no key `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Layers {
        let mut layers = Layers::default();
        layers.file("c.toml", file);
        for (name, text) in environment {
            layers.variable(name, text);
        }
        layers
    }

    #[test]
    fn all_problems_are_found_with_their_lines() {
        let layers =
            load("mode = \"demo\"\n[limits]\nmesage_bytes = 1\noutbox_messages = \"x\"\n[nowhere]\n", &[]);
        let texts: Vec<String> = layers.problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(
            texts[0].starts_with("c.toml:3: there is no key `limits.mesage_bytes`; did you mean"),
            "{texts:?}"
        );
        assert!(
            texts[1].starts_with("c.toml:4: `limits.outbox_messages` must be a whole number"),
            "{texts:?}"
        );
        assert!(texts[2].starts_with("c.toml:5: there is no key `nowhere`"), "{texts:?}");
    }

    /// Found by fuzzing: the parser of TOML ended the program.
    #[test]
    fn an_inline_table_that_is_not_closed_is_a_problem_like_others() {
        for text in
            ["={[]\n.", "limits = {[]\nlimits.connections = 7\n", "limits = {\nlimits.connections = 7\n"]
        {
            let layers = load(text, &[]);
            let places: Vec<&str> = layers.problems.iter().map(|it| it.place.as_str()).collect();
            assert!(
                !places.is_empty() && places.iter().all(|it| ["c.toml:1", "c.toml:2"].contains(it)),
                "{places:?}"
            );
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = "[limits]\nconnections = 7\n";
        assert_eq!(load(file, &[]).integer_of("limits.connections").0, 7);
        assert_eq!(
            load(file, &[("CORECAST_LIMITS__CONNECTIONS", "8")]).integer_of("limits.connections").0,
            8
        );
        assert_eq!(load(file, &[("WS_MAX_CONNECTIONS", "9")]).integer_of("limits.connections").0, 9);
        let links = [
            ("CORECAST_SERVICE_HOST", "10.0.0.1"),
            ("CORECAST_PORT", "tcp://x"),
            ("CORECAST_PORT_80_TCP", "x"),
        ];
        assert!(load("", &links).problems.is_empty(), "service links are not ours");
        assert_eq!(load("", &[("CORECAST_PROT", "x")]).problems.len(), 1, "a slip is");
        let layers = load("", &[("WS_ENDPOINT", "/api/v1/ws/demo")]);
        assert_eq!(layers.text_of("http.prefix").0, "/api/v1");
    }
}
