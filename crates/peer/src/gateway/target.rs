//! What a request's URL names.

use hyper::{StatusCode, Uri};

use super::config::is_file_name;
use super::refusal::Refusal;

/// Longest path, in bytes. Those that the gateway gives out are a third of it.
const MAX_PATH_BYTES: usize = 512;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    Parameters,
    Output,
    /// A file of the dataset by its name, which is looked up and never made into a path.
    Dataset(&'a str),
}

/// Grant and resource that a URL names. There is exactly one way to write each; anything else, such as
/// percent-encoding, empty segments or dots, is refused and not resolved: nobody who was given a URL here
/// needs it.
pub(super) fn parse(uri: &Uri) -> Result<(u64, Resource<'_>), Refusal> {
    let bad = Refusal::bad_request;
    let path = uri.path();
    if uri.query().is_some() {
        return Err(bad("there are no queries here"));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(bad("the path is too long"));
    }
    let segments: Vec<&str> =
        path.strip_prefix('/').ok_or_else(|| bad("the path does not begin with /"))?.split('/').collect();
    if !segments.iter().all(|segment| is_file_name(segment)) {
        return Err(bad("the path has a segment that is empty, too long, begins with a dot or is not plain ASCII"));
    }
    let number = |text: &str| text.parse().map_err(|_| bad("the task is not a number"));
    match segments[..] {
        ["v1", "tasks", task, "parameters"] => Ok((number(task)?, Resource::Parameters)),
        ["v1", "tasks", task, "output"] => Ok((number(task)?, Resource::Output)),
        ["v1", "tasks", task, "dataset", name] => Ok((number(task)?, Resource::Dataset(name))),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing of this name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &str) -> u16 {
        match path.parse::<Uri>() {
            Ok(uri) => parse(&uri).err().map_or(200, |refusal| refusal.status().as_u16()),
            Err(_) => 0,
        }
    }

    #[test]
    fn each_resource_has_one_url() {
        let uri: Uri = "/v1/tasks/7/dataset/train-images-idx3-ubyte".parse().unwrap();
        assert_eq!(parse(&uri).unwrap(), (7, Resource::Dataset("train-images-idx3-ubyte")));
        assert_eq!(status("/v1/tasks/0/parameters"), 200);
        assert_eq!(status("http://other.example/v1/tasks/18446744073709551615/output"), 200);
    }

    #[test]
    fn tricks_with_paths_are_refused() {
        for path in [
            "/v1/tasks/7/dataset/..",
            "/v1/tasks/7/dataset/../output",
            "/v1/tasks/7/dataset/%2e%2e",
            "/v1/tasks/7/dataset/%2e%2e%2fetc%2fpasswd",
            "/v1/tasks/7/dataset//etc/passwd",
            "/v1/tasks/7/dataset/a%00b",
            "/v1/tasks/7/dataset/",
            "//v1/tasks/7/output",
            "/v1/tasks/7/output/",
            "/v1/tasks/7/output?x",
            "/v1/tasks/+7/output",
            "/v1/tasks/-7/output",
            "/v1/tasks/18446744073709551616/output",
            "/v1/tasks/7/./output",
            "/v1\\tasks/7/output",
            "*",
        ] {
            assert_eq!(status(path), 400, "{path}");
        }
        assert_eq!(status(&format!("/v1/tasks/7/dataset/{}", "x".repeat(129))), 400);
        assert_eq!(status(&"/x".repeat(400)), 400);
    }

    #[test]
    fn unknown_resources_are_not_found() {
        for path in ["/v1", "/v2/tasks/7/output", "/v1/tasks/7", "/v1/tasks/7/dataset", "/v1/tasks/7/dataset/a/b"] {
            assert_eq!(status(path), 404, "{path}");
        }
    }
}
