package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
)

// OutputRequest asks for what a session wrote and the agent still keeps. Frames of output
// follow, each from an offset that the client doesn't have; what is missing between them
// was dropped. FrameExit is the last one, with how much each stream had by then.
type OutputRequest struct {
	ID     string `json:"id"`
	Stdout int64  `json:"stdout"` // bytes that the client has
	Stderr int64  `json:"stderr"`
	Follow bool   `json:"follow,omitempty"` // go on until the session has ended
}

// Output is a piece of what a command wrote.
type Output struct {
	Stream string // "stdout" or "stderr"
	Offset int64  // of Data in the stream
	Data   []byte // valid until the call returns that got it
	Lost   int64  // bytes just before Offset that were dropped in the guest
}

// Output calls each for what a command wrote, from these offsets of stdout and stderr on,
// and with follow for what it writes until it ends. Nothing is confirmed and nothing held
// back: the agent keeps what it keeps, for any number of readers. An error of each ends it.
// An unknown id is CodeNotFound; an agent that doesn't know the operation says CodeInvalid.
func (c *Client) Output(ctx context.Context, id string, from [2]int64, follow bool, each func(Output) error) error {
	var refused error
	err := c.persist(ctx, nil, func(conn net.Conn) (bool, error) {
		had := from
		err := readOutput(conn, OutputRequest{id, from[0], from[1], follow}, &from, func(o Output) error {
			if refused = each(o); refused != nil {
				return Errorf(CodeInternal, "%v", refused) // no second try
			}
			return nil
		})
		return from != had, err
	})
	if refused != nil {
		return refused
	}
	return err
}

// readOutput reads one stream of an Output, from the offsets in have on, which it moves.
func readOutput(conn net.Conn, req OutputRequest, have *[2]int64, each func(Output) error) error {
	r := bufio.NewReader(conn)
	if err := exchange(conn, r, OpOutput, "", req, nil); err != nil {
		return err
	}
	names := []string{"stdout", "stderr"}
	take := func(i int, offset int64, data []byte) error {
		lost := offset - have[i]
		have[i] = offset + int64(len(data))
		return each(Output{names[i], offset, data, lost})
	}
	for frames := NewFrameReader(r); ; {
		fr, err := frames.Next()
		if err != nil {
			return err
		}
		switch fr.Type {
		case FrameStdout, FrameStderr:
			i := int(fr.Type - FrameStdout)
			if fr.Offset < have[i] || len(fr.Data) == 0 {
				return Errorf(CodeProtocol, "the guest sent %d bytes of output at offset %d after %d", len(fr.Data), fr.Offset, have[i])
			}
			if err := take(i, fr.Offset, fr.Data); err != nil {
				return err
			}
		case FrameExit:
			var final Final
			if err := json.Unmarshal(fr.Data, &final); err != nil {
				return Errorf(CodeProtocol, "the end of the output can't be read: %v", err)
			}
			for i, total := range []int64{final.Stdout, final.Stderr} {
				if total > have[i] {
					if err := take(i, total, nil); err != nil {
						return err
					}
				}
			}
			return nil
		case FrameError:
			return remoteError(fr.Data)
		default:
			return Errorf(CodeProtocol, "the guest sent a frame of type %d in output", fr.Type)
		}
	}
}
