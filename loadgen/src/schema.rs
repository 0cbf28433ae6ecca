//! A check of documents against the part of JSON Schema that `docs/result.schema.json` uses.
//! Tests use it; it is no general validator.

use serde_json::Value;

/// Everything in `document` that `schema` does not allow, each with its path.
pub fn violations(schema: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, document, "$", &mut found);
    found
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(any) = schema["oneOf"].as_array() {
        let fitting = any
            .iter()
            .filter(|schema| violations(schema, value).is_empty())
            .count();
        if fitting != 1 {
            found.push(format!("{path}: fits {fitting} of the alternatives"));
        }
    }
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        found.push(format!("{path}: is not {constant}"));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        found.push(format!("{path}: {value} is none of {values:?}"));
    }
    let fits = match &schema["type"] {
        Value::String(name) => is_type(name, value),
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            .any(|name| is_type(name, value)),
        _ => true,
    };
    if !fits {
        found.push(format!("{path}: {value} is not of type {}", schema["type"]));
        return;
    }
    if let (Some(minimum), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < minimum
    {
        found.push(format!("{path}: {number} is below {minimum}"));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !object.contains_key(name) {
                found.push(format!("{path}.{name}: missing"));
            }
        }
        for (name, inner) in object {
            let path = format!("{path}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => {
                    found.push(format!("{path}: not in the schema"))
                }
                (Value::Null, Value::Null | Value::Bool(_)) => {}
                (Value::Null, additional) => check(additional, inner, &path, found),
                (property, _) => check(property, inner, &path, found),
            }
        }
    }
    if let Some(items) = value.as_array() {
        if (items.len() as u64) < schema["minItems"].as_u64().unwrap_or(0) {
            found.push(format!("{path}: too few items"));
        }
        if !schema["items"].is_null() {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn violations_are_found_and_named() {
        let schema = json!({
            "type": "object",
            "required": ["a", "b"],
            "properties": {
                "a": {"type": "integer", "minimum": 0},
                "b": {"type": "array", "items": {"enum": ["x"]}},
                "c": {"oneOf": [{"type": "null"}, {"type": "string"}]}
            },
            "additionalProperties": false
        });
        assert!(violations(&schema, &json!({"a": 1, "b": ["x"], "c": null})).is_empty());
        for bad in [
            json!({"a": 1}),
            json!({"a": -1, "b": []}),
            json!({"a": 1.5, "b": []}),
            json!({"a": 1, "b": ["y"]}),
            json!({"a": 1, "b": [], "d": 0}),
            json!({"a": 1, "b": [], "c": 3}),
        ] {
            assert_eq!(violations(&schema, &bad).len(), 1, "{bad}");
        }
    }
}
