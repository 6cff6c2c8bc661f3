package scale

import "time"

// Worth returns the greedy-dual priority of an idle instance: clock +
// freq*cost/size, as in FaasCache (Fuerst and Sharma, ASPLOS 2021). The least
// worth is evicted first, and its worth becomes the new clock, which is how the
// unused age. clock is the one at the instance's last use, calls the
// function's since it has instances, cost the time to start one and size its
// memory in bytes.
func Worth(clock float64, calls int64, cost time.Duration, size int64) float64 {
	const mib = 1 << 20
	return clock + float64(max(0, calls))*max(0, cost.Seconds())*mib/float64(max(1, size))
}
