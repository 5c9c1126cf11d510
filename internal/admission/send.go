package admission

import (
	"net/http"
	"slices"
	"time"
)

const (
	// Stall is how long a client may read nothing before its connection is cut off.
	Stall = 30 * time.Second

	// sendPart is how much of an answer is written with one deadline. A client that reads
	// so much, and a part of the buffers between, in the time of Stall is served to the end.
	sendPart = 32 << 10
)

// Send writes the body of an answer. A deadline for all of it would cut off slow clients
// that read steadily, so each part has its own. An error means that the client is gone, or
// has read nothing for the time of [Stall].
func Send(w http.ResponseWriter, body []byte) error {
	control := http.NewResponseController(w)
	for part := range slices.Chunk(body, sendPart) {
		ExpectProgress(control)
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	ExpectProgress(control) // net/http may have the last part still
	return nil
}

// ExpectProgress sets the deadline of the next write.
func ExpectProgress(control *http.ResponseController) {
	// This fails without a connection, as in tests, and then there is no deadline.
	_ = control.SetWriteDeadline(time.Now().Add(Stall))
}
