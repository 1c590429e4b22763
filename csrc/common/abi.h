// What ties the compiled library to the code that calls it.
#pragma once

// Raise it whenever the inputs, outputs or attributes of a registered operator change in a way that older
// Python code would get wrong. paddle_infra/_core/extension.py holds the same number and refuses a library
// with another.
#define PADDLE_INFRA_ABI 4

// For the C entry points: everything else stays invisible outside the library.
#define PADDLE_INFRA_EXPORT extern "C" __attribute__((visibility("default")))
