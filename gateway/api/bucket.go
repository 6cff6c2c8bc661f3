package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Bucket is a bucket that holds objects.
type Bucket struct {
	Name string `json:"name"`
}

// BucketList is the answer of GET /v1/buckets, by name.
type BucketList struct {
	Buckets []Bucket `json:"buckets"`
}

// ObjectList is a page of GET /v1/buckets/{name}, by key.
type ObjectList struct {
	Objects []orchestrator.Object `json:"objects"`
	Next    string                `json:"next,omitempty"` // to give as after, for what is behind this page
}

// Buckets returns all buckets, by name.
func (c *Client) Buckets(ctx context.Context) ([]Bucket, error) {
	var list BucketList
	err := c.call(ctx, http.MethodGet, "/v1/buckets", nil, "", &list)
	return list.Buckets, err
}

// Objects returns a page of a bucket.
func (c *Client) Objects(ctx context.Context, bucket string, filter orchestrator.ObjectFilter) (list ObjectList, err error) {
	values := url.Values{}
	if filter.Prefix != "" {
		values.Set("prefix", filter.Prefix)
	}
	if filter.After != "" {
		values.Set("after", filter.After)
	}
	if filter.Limit != 0 {
		values.Set("limit", strconv.Itoa(filter.Limit))
	}
	path := "/v1/buckets/" + url.PathEscape(bucket)
	if len(values) > 0 {
		path += "?" + values.Encode()
	}
	err = c.call(ctx, http.MethodGet, path, nil, "", &list)
	return list, err
}

func objectPath(bucket, key string) string {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return "/v1/buckets/" + url.PathEscape(bucket) + "/" + strings.Join(parts, "/")
}

// PutObject writes an object. content is sent as it is read; media may be "".
func (c *Client) PutObject(ctx context.Context, bucket, key, media string, content io.Reader) (o orchestrator.Object, err error) {
	err = c.call(ctx, http.MethodPut, objectPath(bucket, key), content, media, &o)
	return o, err
}

// Object opens an object: the answer has its headers, and its content as it comes.
// The caller closes the body.
func (c *Client) Object(ctx context.Context, bucket, key string) (*http.Response, error) {
	// Nothing is to be unpacked on the way: the length is that of the object.
	return c.do(ctx, http.MethodGet, objectPath(bucket, key), nil, http.Header{"Accept-Encoding": {"identity"}})
}

// DeleteObject removes an object.
func (c *Client) DeleteObject(ctx context.Context, bucket, key string) error {
	return c.call(ctx, http.MethodDelete, objectPath(bucket, key), nil, "", nil)
}
