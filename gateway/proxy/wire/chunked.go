package wire

// Limits of a chunked body's framing.
const (
	maxChunkDigits = 15      // a size fits an int64
	maxChunkExt    = 256     // bytes of extensions of one chunk; nobody uses any
	maxTrailers    = 8 << 10 // bytes of the trailer section
)

// chunkState is where in a chunked body the reader is.
type chunkState uint8

const (
	chunkSize    chunkState = iota // in the digits of a size
	chunkBlank                     // in blanks behind the size, which nothing may follow
	chunkExt                       // in extensions
	chunkSizeLF                    // after the CR of a size line
	chunkData                      // in data
	chunkDataCR                    // after data
	chunkDataLF                    // after the CR behind data
	trailerStart                   // at the beginning of a line of the trailer section
	trailerLine                    // within a line of it
	trailerLF                      // after the CR of a line of it
	trailerEndLF                   // after the CR of the empty line
	chunkEnd                       // behind the body
)

// Chunked reads the framing of a chunked body, strictly: CRLF only, sizes of at
// most 15 digits, extensions of visible characters. A body that it accepts means
// the same to every parser, so that its bytes may be passed on as they are. The
// zero value is at the beginning of a body.
type Chunked struct {
	state   chunkState
	digits  uint8
	ext     int
	left    int64 // of the chunk's data
	section int   // bytes of trailers so far
	line    []byte
}

// Done says whether the whole body has been read.
func (c *Chunked) Done() bool { return c.state == chunkEnd }

// Frame reads framing and trailers from in, up to the next data, the end of the
// body or the end of in, and returns how many bytes it read. Trailers are given
// to trailer, which may be nil; a field is valid during the call.
func (c *Chunked) Frame(in []byte, trailer func(Field) error) (n int, err error) {
	for n < len(in) && c.state != chunkData && c.state != chunkEnd && err == nil {
		b := in[n]
		n++
		if c.state >= trailerStart {
			err = c.trailer(b, trailer)
		} else {
			err = c.frame(b)
		}
	}
	return n, err
}

// Data returns how many of the next max bytes are data and counts them as read.
// It is 0 where framing is expected.
func (c *Chunked) Data(limit int) int {
	if c.state != chunkData {
		return 0
	}
	n := int(min(int64(limit), c.left))
	if c.left -= int64(n); c.left == 0 {
		c.state = chunkDataCR
	}
	return n
}

// Skip reads all of in. It returns how many bytes belong to the body, and how
// many of these come before the trailer section.
func (c *Chunked) Skip(in []byte, trailer func(Field) error) (n, before int, err error) {
	section := c.section
	for n < len(in) && c.state != chunkEnd {
		m, err := c.Frame(in[n:], trailer)
		if n += m; err != nil {
			return n, 0, err
		}
		n += c.Data(len(in) - n)
	}
	return n, n - (c.section - section), nil
}

// frame reads one byte around data.
func (c *Chunked) frame(b byte) error {
	switch c.state {
	case chunkSize:
		switch {
		case class[b]&hexByte != 0:
			if c.digits++; c.digits > maxChunkDigits {
				return ErrChunk
			}
			c.left = c.left<<4 | int64(unhex(b))
		case c.digits == 0:
			return ErrChunk
		case b == '\r':
			c.state = chunkSizeLF
		case b == ' ' || b == '\t':
			c.state, c.ext = chunkBlank, 0
		case b == ';':
			c.state, c.ext = chunkExt, 0
		default:
			return ErrChunk
		}
	case chunkBlank:
		switch b {
		case '\r':
			c.state = chunkSizeLF
		case ' ', '\t':
			if c.ext++; c.ext > maxChunkExt {
				return ErrChunkExt
			}
		default:
			return ErrChunkExt
		}
	case chunkExt:
		if b == '\r' {
			c.state = chunkSizeLF
			return nil
		}
		if c.ext++; c.ext > maxChunkExt || class[b]&valueByte == 0 {
			return ErrChunkExt
		}
	case chunkSizeLF:
		switch {
		case b != '\n':
			return ErrChunk
		case c.left == 0:
			c.state = trailerStart
		default:
			c.state = chunkData
		}
		c.digits = 0
	case chunkDataCR:
		if b != '\r' {
			return ErrChunk
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return ErrChunk
		}
		c.state = chunkSize
	}
	return nil
}

// trailer reads one byte of the trailer section.
func (c *Chunked) trailer(b byte, f func(Field) error) error {
	if c.section++; c.section > maxTrailers {
		return ErrTrailerLarge
	}
	if b == '\n' && c.state <= trailerLine {
		return ErrTrailer
	}
	switch c.state {
	case trailerStart:
		if b == '\r' {
			c.state = trailerEndLF
			return nil
		}
		c.line = append(c.line[:0], b)
		c.state = trailerLine
	case trailerLine:
		if b == '\r' {
			c.state = trailerLF
			return nil
		}
		c.line = append(c.line, b)
	case trailerLF:
		if b != '\n' {
			return ErrTrailer
		}
		field, err := splitField(c.line)
		if err != nil {
			return ErrTrailer
		}
		if f != nil {
			if err := f(field); err != nil {
				return err
			}
		}
		c.state = trailerStart
	case trailerEndLF:
		if b != '\n' {
			return ErrTrailer
		}
		c.state = chunkEnd
	}
	return nil
}

func unhex(b byte) byte {
	switch {
	case b <= '9':
		return b - '0'
	case b >= 'a':
		return b - 'a' + 10
	}
	return b - 'A' + 10
}
