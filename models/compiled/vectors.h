// Parts of compiled kernels: vectors of eight floats or four doubles, exponentials, threads, and errors at the C interface.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>
#include <vector>

constexpr int BYTES = 32;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(BYTES)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(BYTES)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
typedef int32_t Bits __attribute__((vector_size(BYTES)));
template <class T>
constexpr int64_t LANES = BYTES / sizeof(T);

template <class T>
static inline Vec<T> fill(T value) {
    return Vec<T>{} + value;
}
template <class T>
static inline Vec<T> load(const T* from) {
    Vec<T> x;
    std::memcpy(&x, from, BYTES);
    return x;
}
template <class T, class X>
static inline void store(T* to, const X& x) {
    std::memcpy(to, &x, BYTES);
}
template <class T, class X>
static inline void store_some(T* to, const X& x, int64_t count) {
    std::memcpy(to, &x, count * sizeof(T));
}

// exp(x) for x <= 0 (and a rounding error above).
template <class T>
static inline Vec<T> exponential(Vec<T> x);

// Powers of two by the exponent bits; the rest, at most ln(2) / 2 from zero, by a polynomial: 2e-7 relative.
template <>
inline Vec<float> exponential<float>(Vec<float> x) {
    const Vec<float> lowest = fill<float>(-87.0f), bias = fill<float>(12582912.0f);  // 1.5 * 2^23 rounds to integers
    const Vec<float> y = x < lowest ? lowest : x;
    const Vec<float> shifted = y * 1.44269504f + bias, n = shifted - bias;
    const Vec<float> r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec<float> sum = fill<float>(1.0f / 5040);
    for (const float next : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + next;
    Bits bits;
    std::memcpy(&bits, &shifted, BYTES);
    bits = (bits << 23) + 0x3f800000;
    Vec<float> power;
    std::memcpy(&power, &bits, BYTES);
    return x < lowest ? fill<float>(0) : sum * power;
}
template <>
inline Vec<double> exponential<double>(Vec<double> x) {
    Vec<double> e;
    for (int i = 0; i < LANES<double>; ++i) e[i] = std::exp(x[i]);
    return e;
}

// Calls work(0), ..., work(tasks - 1) from up to `threads` threads; fewer where the system refuses more.
template <class Work>
static void in_parallel(int64_t tasks, int64_t threads, const Work& work) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    const auto loop = [&] {
        try {
            for (int64_t task = next++; task < tasks && !failed; task = next++) work(task);
        } catch (...) {
            failed = true;
        }
    };
    std::vector<std::thread> crew;
    crew.reserve(threads);
    try {
        for (int64_t i = 1; i < std::min(threads, tasks); ++i) crew.emplace_back(loop);
    } catch (const std::exception&) {
    }
    loop();
    for (auto& one : crew) one.join();
    if (failed) throw std::runtime_error("out of memory");
}

// No exception crosses the C interface: 0 for success.
template <class Work>
static int guarded(const Work& work) {
    try {
        work();
        return 0;
    } catch (...) {
        return 1;
    }
}
