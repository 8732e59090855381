"""Files from a folder, a web server, the Hugging Face hub or a bucket, brought to disk once and shared by all ranks.

    roots.py      what `data.root` names, and which files lie below it      files.py     one file: name, size, hash
    remote.py     the interface of a remote place; web.py, hub.py and bucket.py implement it
    download.py   one file to disk, resumed and checked                     retry.py     pauses between tries
    quota.py      the bound on the cache folder                             locks.py     locks between processes
    record.py     what is kept beside a fetched file                        answer.py    what a remote place answers
    mirror.py     a copy of a remote place as a folder                      background.py   daemon threads
    ranges.py     parts of files, many at a time, ahead of need             sparse.py        the copies that they lie in
    fill.py       missing blocks of a copy, fetched                         connections.py   kept-alive connections

What the libraries do well is left to them: `huggingface_hub` reads hub addresses, finds the commit of a revision, lists
files with their hashes, makes addresses and headers; `fsspec` reads buckets and matches glob patterns; `requests`
speaks HTTP. The transfer itself is our own. Both libraries were tried for it with the faulty server of tests/data/fetch
(fsspec 2026.9, huggingface_hub 2.4). fsspec's `filecache` over http, which needs aiohttp, fails at the first reset
connection or status 500, stores an error page of status 200 under the name of the file, and has no locks between
processes. `hf_hub_download` has locks and compares the size, but resumes after some broken connections only (a reset
raises), and since 2.4 never after a killed process (its temporary file is new each time, with Xet too), which matters
for files of 4 GB; it does not compare the hash, so a wrong file of the right size passes; its cache has no bound.
`HfFileSystem` cannot seek in a stream, so it cannot resume, and a file that can seek asks the hub again for every 5 MB,
which its rate limit forbids. Here a download goes on at a byte offset after any fault and in any later process, all its
parts are of one version (If-Range, Content-Range, ETag, Last-Modified), and size and sha256 are checked at the end.
"""
