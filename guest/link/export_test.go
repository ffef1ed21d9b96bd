package link

// OldStreams is how many streams a session of version 1 has for users.
const OldStreams = oldStreams

// BatchSize is what a round is filled up to.
const BatchSize = batchSize
