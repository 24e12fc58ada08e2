-- A run of three of the zoo's images, as release 0.4 wrote it (format 3).
BEGIN TRANSACTION;
CREATE TABLE audit (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, sample INTEGER NOT NULL, place INTEGER NOT NULL,
    label INTEGER NOT NULL, lot REAL NOT NULL, PRIMARY KEY (image, phase, sample)
) WITHOUT ROWID
;
CREATE TABLE blocks (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (image, phase, start)
) WITHOUT ROWID;
INSERT INTO "blocks" VALUES(0,0,0,20,'[0, 0, 3, 0, 0, 0, 17, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,0,30,'[0, 0, 6, 0, 0, 0, 24, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,30,40,'[0, 0, 2, 0, 0, 0, 8, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,40,50,'[0, 0, 2, 0, 0, 0, 8, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,50,60,'[0, 0, 1, 0, 0, 0, 9, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,60,70,'[0, 0, 0, 0, 0, 0, 10, 0, 0, 0]');
INSERT INTO "blocks" VALUES(0,1,70,80,'[0, 0, 3, 0, 0, 0, 7, 0, 0, 0]');
INSERT INTO "blocks" VALUES(1,0,0,20,'[0, 11, 1, 0, 0, 0, 8, 0, 0, 0]');
INSERT INTO "blocks" VALUES(1,1,0,30,'[0, 11, 1, 0, 0, 0, 18, 0, 0, 0]');
INSERT INTO "blocks" VALUES(1,1,30,40,'[0, 5, 0, 0, 0, 0, 4, 0, 0, 1]');
INSERT INTO "blocks" VALUES(1,1,40,50,'[0, 8, 0, 0, 0, 0, 2, 0, 0, 0]');
INSERT INTO "blocks" VALUES(1,1,50,60,'[0, 5, 1, 0, 0, 0, 4, 0, 0, 0]');
INSERT INTO "blocks" VALUES(1,1,60,70,'[0, 7, 0, 0, 0, 0, 3, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,0,0,20,'[0, 1, 2, 0, 0, 0, 17, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,0,30,'[0, 2, 6, 0, 0, 0, 22, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,30,40,'[0, 1, 0, 0, 0, 0, 9, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,40,50,'[0, 0, 0, 0, 0, 0, 10, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,50,60,'[0, 0, 1, 0, 0, 0, 9, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,60,70,'[0, 0, 2, 0, 0, 0, 8, 0, 0, 0]');
INSERT INTO "blocks" VALUES(2,1,70,80,'[0, 0, 3, 0, 0, 0, 7, 0, 0, 0]');
CREATE TABLE decisions (
    image INTEGER NOT NULL REFERENCES results, radius REAL NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (image, radius)
) WITHOUT ROWID;
INSERT INTO "decisions" VALUES(0,0.1,'undecided');
INSERT INTO "decisions" VALUES(0,0.3,'undecided');
INSERT INTO "decisions" VALUES(1,0.1,'undecided');
INSERT INTO "decisions" VALUES(1,0.3,'refuted');
INSERT INTO "decisions" VALUES(2,0.1,'undecided');
INSERT INTO "decisions" VALUES(2,0.3,'undecided');
CREATE TABLE images (
    image INTEGER PRIMARY KEY, label INTEGER NOT NULL, sha256 TEXT NOT NULL, distance REAL NOT NULL
);
INSERT INTO "images" VALUES(0,3,'af90c1b395b1855530bb147c7dc15d4380fce57c9cc8cde3f8bcb94159001b1e',0.0);
INSERT INTO "images" VALUES(1,8,'862df6c7fc017b603258c793299baa3f13add9cea798d861eea8bd748505ff0a',0.0);
INSERT INTO "images" VALUES(2,8,'32eb8796ea11083d9a06f53422d876b50954e2d78ab5e43c67c22324eb55c28b',0.0);
CREATE TABLE margins (image INTEGER PRIMARY KEY REFERENCES images, predict INTEGER NOT NULL, margin REAL NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('audit','{"of": 300, "rows": 256, "spent": 340, "strange": 3}');
INSERT INTO "meta" VALUES('classes','10');
INSERT INTO "meta" VALUES('classifier','{"classifier": {"backend": "onnxruntime", "batch": 20, "instruction_set": "x86_64+avx2+avx512f+avx512_vnni+avx512_bf16+avx_vnni", "precision": "fp32", "probe": "0e726359c1c5b7f0e4f37dea7713f23410ee0b5b51347e2a5c52cbdf5d529e22", "sha256": "b33ad0d097ceae06b88405f6b1e7a266879e317307d4f087527806dc1fc5b818", "version": "1.32.0"}, "id": "e9ad6ae16cb08dc7", "method": "rs", "noise_version": 2, "sigma": 0.25}');
INSERT INTO "meta" VALUES('config','{"alpha": 0.001, "command": "certify", "crop": null, "max": 3, "method": "rs", "n": 100, "n0": 20, "quantise": false, "radius": [0.1, 0.3], "resize": null, "skip": 1}');
INSERT INTO "meta" VALUES('data','"7b321b9d2afcd2eda52c66b977ed6e5e4df942a1fa50b877c420e1d40443ed41"');
INSERT INTO "meta" VALUES('files','{"classifier": null, "data": "cifar10-test-100.parquet", "engine": "classifier-dds.onnx"}');
INSERT INTO "meta" VALUES('format','3');
INSERT INTO "meta" VALUES('images','3');
INSERT INTO "meta" VALUES('key','"c0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0de"');
INSERT INTO "meta" VALUES('key_source','"given"');
INSERT INTO "meta" VALUES('labels','{"by": "number", "classes": {"airplane": 0, "automobile": 1, "bird": 2, "cat": 3, "deer": 4, "dog": 5, "frog": 6, "horse": 7, "ship": 8, "truck": 9}}');
INSERT INTO "meta" VALUES('law','"32c36b1a08cf5eba3aa671de07f322ecc3224032a4935b68fd2f1d2c180c314d"');
INSERT INTO "meta" VALUES('rows','{"classifier": "proved"}');
INSERT INTO "meta" VALUES('shape','[3, 32, 32]');
INSERT INTO "meta" VALUES('source','"cifar10-test-100.parquet"');
INSERT INTO "meta" VALUES('thresholds','{"0.1": [[30, 30, 7], [40, 38, 12], [50, 47, 17], [60, 55, 22], [70, 63, 27], [80, 71, 32], [90, 79, 37], [100, 87, 43]], "0.3": [[30, 31, 17], [40, 41, 23], [50, 51, 31], [60, 61, 39], [70, 71, 47], [80, 81, 55], [90, 90, 64], [100, 100, 71]]}');
INSERT INTO "meta" VALUES('total_variation','9.41746680638289e-14');
INSERT INTO "meta" VALUES('versions','{"diffsmooth-trt": "0.4.0", "machine": "Linux x86_64, 2 processors", "numpy": "2.4.6", "python": "3.11.7", "scipy": "1.17.1"}');
CREATE TABLE partial (
    image INTEGER NOT NULL REFERENCES images, phase INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    counts TEXT NOT NULL, PRIMARY KEY (image, phase, start)
) WITHOUT ROWID;
CREATE TABLE results (
    image INTEGER PRIMARY KEY REFERENCES images, predict INTEGER NOT NULL, radius REAL, p_lower REAL,
    hits INTEGER NOT NULL, trials INTEGER NOT NULL
);
INSERT INTO "results" VALUES(0,6,0.0302019022682694,5.48078288458844542496e-01,66,80);
INSERT INTO "results" VALUES(1,-1,0.0,2.2803209517429195996e-01,36,70);
INSERT INTO "results" VALUES(2,6,2.04132247079614956297e-02,5.32538632744222195647e-01,65,80);
CREATE TABLE timing (image INTEGER PRIMARY KEY REFERENCES images, seconds REAL NOT NULL);
INSERT INTO "timing" VALUES(0,0.25);
INSERT INTO "timing" VALUES(1,0.25);
INSERT INTO "timing" VALUES(2,0.25);
COMMIT;
