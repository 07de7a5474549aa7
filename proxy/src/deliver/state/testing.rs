//! Rows for tests of this stage.

use crate::clock::WallMillis;
use crate::ids::{FileId, JobId, UpstreamPromptId};
use crate::owner::Owner;
use crate::record::ledger::{Attempt, Directory, FileRow, Job, JobResult, JobState, ResultFile};
use comfygate_policy::Digest;
use serde_json::{Value, json};

pub(in crate::deliver) const SUBMISSION: &str =
    r#"{"prompt":{"1":{"class_type":"EmptyImage","inputs":{"width":64}}},"extra_data":{"extra_pnginfo":{"workflow":{"nodes":[]}}}}"#;

pub(in crate::deliver) fn owner(tenant: &str) -> Owner {
    Owner { tenant: tenant.parse().unwrap(), user: None, key: None }
}

pub(in crate::deliver) fn job(state: JobState) -> Job {
    Job {
        id: JobId::new(),
        sequence: 900,
        version: 1,
        owner: owner("acme"),
        prompt_id: "mine".parse().unwrap(),
        number: 4,
        client_id: Some("tab".parse().unwrap()),
        submission: Digest::of(SUBMISSION.as_bytes()),
        output_nodes: vec!["2".into()],
        accepted_at: WallMillis(5),
        state,
        attempts: vec![Attempt {
            n: 1,
            backend: "gpu0".parse().unwrap(),
            upstream: UpstreamPromptId::new(),
            folder: "t/abc/1-1".into(),
            assigned_at: WallMillis(6),
            started_at: None,
            lost: None,
        }],
        cancel_requested: false,
    }
}

/// One image of node 2, and `last` as the last message.
pub(in crate::deliver) fn result_with_image(last: &str) -> JobResult {
    let object = |value: Value| value.as_object().unwrap().clone();
    JobResult {
        outputs: object(json!({"2": {"images": [{"filename": "probe_00001_.png", "subfolder": "", "type": "output"}]}})),
        meta: object(json!({"2": {"node_id": "2", "display_node": "2", "parent_node": null, "real_node_id": "2"}})),
        messages: vec![
            ("execution_start".into(), json!({"prompt_id": "mine", "timestamp": 7})),
            (last.into(), json!({"prompt_id": "mine", "timestamp": 9})),
        ],
        started_at: Some(WallMillis(7)),
        ended_at: Some(WallMillis(9)),
        files: vec![ResultFile { pointer: "/2/images/0".into(), id: FileId::new() }],
    }
}

pub(in crate::deliver) fn file_row(filename: &str) -> FileRow {
    FileRow {
        id: FileId::new(),
        owner: owner("acme"),
        job: None,
        content: Digest::of(b"content"),
        bytes: 7,
        directory: Directory::Output,
        subfolder: String::new(),
        filename: filename.into(),
        content_type: crate::deliver::views::content_type(filename).into(),
        created_at: WallMillis(1_700_000_000_123),
    }
}
