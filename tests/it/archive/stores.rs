//! What a store must be able to do, and which ones are refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn buckets_without_lock_or_versioning_are_refused_by_name() {
    let s3 = S3::shared();
    let rig = Rig::new(Kind::Dir, 1).await;
    let probe = async |bucket: &str, lock_mode| {
        let mut settings = rig.settings.clone();
        settings.store = s3_settings(&s3, bucket);
        settings.lock_mode = lock_mode;
        AnyStore::open(&settings).await.unwrap().probe(&settings).await
    };
    let plain = s3.create_bucket("plain", false, false).await;
    let versioned = s3.create_bucket("versioned", false, true).await;
    let locked = s3.create_bucket("locked", true, true).await;
    for bucket in [&plain, &versioned] {
        let Err(StoreError::Refused { message }) = probe(bucket, LockMode::Compliance).await else {
            panic!("{bucket} was taken")
        };
        assert!(message.contains("Object Lock") && message.contains(bucket), "{message}");
        assert!(message.contains("make a new bucket"), "{message}");
    }
    let Err(StoreError::Refused { message }) = probe("no-such-bucket", LockMode::Governance).await
    else {
        panic!("a bucket that is not there was taken")
    };
    assert!(message.contains("make the bucket"), "{message}");
    for mode in [LockMode::Compliance, LockMode::Governance] {
        let properties = probe(&locked, mode).await.unwrap();
        assert_eq!(properties.len(), 7);
        for property in properties {
            assert_eq!(property.verdict, Verdict::Held, "{property:?}");
        }
    }
    // No lock has to be asked for; then the rest is tried all the same.
    let properties = probe(&plain, LockMode::None).await.unwrap();
    assert!(
        properties.iter().any(|p| p.name == "create-only writing" && p.verdict == Verdict::Held)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_lock_works_where_it_is_asked_for() {
    let mut rig = Rig::new(Kind::S3, 1).await;
    let (s3, _) = rig.bucket.take().unwrap();
    let plain = s3.create_bucket("plain", false, false).await;
    rig.settings.store = s3_settings(&s3, &plain);
    rig.settings.lock_mode = LockMode::None;
    rig.produce(0, 0..5).await;
    let running = rig.run().await;
    rig.until_archived(5).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_only_look_like_write_once_are_refused() {
    for name in ["ceph_rgw", "versitygw"] {
        let Some(s3) = S3::negative(name) else {
            eprintln!("{name}: not run, only `make torture` starts it");
            continue;
        };
        let rig = Rig::new(Kind::Dir, 1).await;
        let mut settings = rig.settings.clone();
        settings.lock_mode = LockMode::Compliance;
        settings.store = s3_settings(&s3, &s3.create_bucket("neg", true, true).await);
        let outcome = AnyStore::open(&settings).await.unwrap().probe(&settings).await;
        let Err(StoreError::Refused { message }) = outcome else { panic!("{name}: {outcome:?}") };
        assert!(message.contains("is missing"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_over_a_name_hides_nothing() {
    let rig = Rig::new(Kind::S3, 1).await;
    rig.produce(0, 0..5).await;
    let running = rig.run().await;
    rig.until_archived(5).await;
    running.stop().await;
    let (s3, bucket) = rig.bucket.as_ref().unwrap();
    let name = rig.segments(0).await.remove(0);
    let full = format!("p/{name}");
    s3.client().delete_object().bucket(bucket).key(&full).send().await.unwrap();
    s3.client()
        .put_object()
        .bucket(bucket)
        .key(&full)
        .body(aws_sdk_s3::primitives::ByteStream::from_static(b"forged"))
        .send()
        .await
        .unwrap();
    rig.produce(0, 5..9).await;
    let running = rig.run().await;
    rig.until_archived(9).await;
    running.stop().await;
    rig.assert_equals_kafka().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_names_is_found_without_listing_them_all() {
    let rig = Rig::new(Kind::S3, 1).await;
    let store = rig.store().await;
    let (s3, bucket) = rig.bucket.as_ref().unwrap();
    // Written without locks, by another client: only the names matter.
    let client = s3.client();
    let put = |name: String| {
        let request = client.put_object().bucket(bucket).key(format!("p/{name}"));
        async move { request.send().await.unwrap() }
    };
    let names: Vec<_> = (0..1_205_i64)
        .map(|n| SegmentKey { topic: "t".to_owned(), partition: 0, from: n * n * 7 }.name())
        .collect();
    for piece in names.chunks(40) {
        futures_util::future::join_all(piece.iter().cloned().map(put)).await;
    }
    put(SegmentKey { topic: "t".to_owned(), partition: 1, from: i64::MAX }.name()).await;
    let last = store.last_key("segments/t/00000/").await.unwrap();
    assert_eq!(last.as_ref(), names.last());
    assert_eq!(store.last_key("segments/t/00002/").await.unwrap(), None);
    assert_eq!(store.list("segments/t/00000/").await.unwrap(), names);
}
