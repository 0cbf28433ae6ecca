//! House rules that no compiler checks. A rule without a check is a wish.
//!
//! Every check is a function from texts to a list of complaints, run twice: over the repository,
//! where it must find nothing, and over a sample that breaks the rule, where it must.

mod arrows;
mod code;
mod rooms;
mod source;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository: its path from the root, with `/`, and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    pub fn sample(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The folder under the root that the file is in: the crate's name.
    pub fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A test binary, an example or a benchmark: not part of the crate's library or program.
    pub fn is_beside_the_crate(&self) -> bool {
        ["tests", "examples", "benches"].contains(&self.path.split('/').nth(1).unwrap_or_default())
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a member of the workspace")
        .to_owned()
}

/// Every text file of the repository but build products, results and the lock file.
pub fn repository() -> Vec<File> {
    let mut files = Vec::new();
    walk(&root(), &root(), &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        files.iter().any(|file| file.path == "wire/src/lib.rs"),
        "the walk found no code"
    );
    files
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            let built = name.starts_with("target") || name == "results" || name == ".git";
            if !built {
                walk(root, &path, files);
            }
        } else if name != "Cargo.lock"
            // In a second working tree this is a file that names the first.
            && name != ".git"
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).expect("below the root");
            files.push(File {
                path: path.to_string_lossy().into_owned(),
                text,
            });
        }
    }
}

/// Fails with all complaints at once.
pub fn expect_none(rule: &str, complaints: &[String]) {
    assert!(
        complaints.is_empty(),
        "{rule}:\n  {}\n",
        complaints.join("\n  ")
    );
}
