package jetstream

import (
	"context"
	"net/http"

	"github.com/nats-io/nats.go"
)

// Publish sends a message to a NATS subject, where Dial leads to, and returns once
// the server has it.
// Whether anybody keeps it is up to the streams and subscribers of the subject.
// Errors: ErrUnavailable, ErrDeadline.
func (s *Server) Publish(ctx context.Context, subject string, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	message := nats.NewMsg(subject)
	message.Data = body
	for name, values := range header {
		message.Header[name] = values
	}
	err := s.events.PublishMsg(message)
	if err == nil {
		err = s.events.FlushWithContext(ctx)
	}
	return classify(ctx, "publish to "+subject, err)
}
