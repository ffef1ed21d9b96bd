package guest

import (
	"bufio"
	"context"
	"net"
	"time"
)

// start makes sure that a request that starts something isn't done by two agents. When the
// stream broke before the answer came, it isn't known whether it was done, and the agent
// that would know may have been replaced since. One agent never does it twice: the session
// has an id.
type start struct {
	since time.Time // when it was first sent
	agent string    // the incarnation it is for; empty: any
}

// startReadings is how often an agent is asked how long it has been there: a slow answer
// proves little.
const startReadings = 3

// prepare is called before each try. From the second on, the request is only for the agent
// that was there at the first. CodeLost if it isn't certain that this agent is still there.
// Older agents don't tell; they are taken for the same one.
func (o *start) prepare(ctx context.Context, c *Client) error {
	if o.since.IsZero() {
		o.since = time.Now()
		return nil
	}
	if o.agent != "" {
		return nil
	}
	for range startReadings {
		h, err := o.ask(ctx, c)
		if err != nil || h.Incarnation == "" {
			return err
		}
		if time.Since(o.since) <= time.Duration(h.ServingMS)*time.Millisecond {
			o.agent = h.Incarnation
			return nil
		}
	}
	return Errorf(CodeLost, "the agent in the guest was replaced before it had answered: whether the command ran isn't known")
}

// ask asks the agent for its incarnation, on one stream.
func (o *start) ask(ctx context.Context, c *Client) (h Health, err error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return h, err
	}
	_, err = oneStream(ctx, conn, func(conn net.Conn) (bool, error) {
		return false, exchange(conn, bufio.NewReader(conn), OpHealth, "", HealthRequest{NoInit: true}, &h)
	})
	return h, err
}
